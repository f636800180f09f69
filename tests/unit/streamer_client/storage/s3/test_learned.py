"""What a process remembers of stores."""

from __future__ import annotations

from streamer_client.storage.s3.learned import Memory


def test_news_is_told_once() -> None:
    memory: Memory[str] = Memory()
    assert memory.get("aws", "b") is None
    assert memory.learn("aws", "b", "eu-west-1")
    assert not memory.learn("aws", "b", "eu-west-1")
    assert memory.learn("aws", "b", "us-east-1")
    assert memory.get("aws", "b") == "us-east-1"
    assert memory.get("http://other", "b") is None


def test_the_oldest_is_forgotten() -> None:
    memory: Memory[int] = Memory(max_entries=2)
    for number in range(3):
        memory.learn("aws", str(number), number)
    assert [memory.get("aws", str(number)) for number in range(3)] == [None, 1, 2]
