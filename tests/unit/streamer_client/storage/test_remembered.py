"""The facts about stores that a process remembers."""

from __future__ import annotations

from streamer_client.storage.remembered import Remembered


def test_news_is_told_once() -> None:
    regions: Remembered[tuple[str, str], str] = Remembered(9)
    assert regions.get(("aws", "b")) is None
    assert regions.learn(("aws", "b"), "eu-west-1")
    assert not regions.learn(("aws", "b"), "eu-west-1")
    assert regions.learn(("aws", "b"), "us-east-1")
    assert regions.get(("aws", "b")) == "us-east-1"
    assert regions.get(("http://other", "b")) is None


def test_the_oldest_is_forgotten() -> None:
    numbers: Remembered[str, int] = Remembered(max_entries=2)
    for number in range(3):
        numbers.learn(str(number), number)
    assert [numbers.get(str(number)) for number in range(3)] == [None, 1, 2]


def test_what_is_forgotten_is_forgotten_once() -> None:
    places: Remembered[str, str] = Remembered(2)
    places.learn("https://h/a", "https://cdn/a")
    assert places.forget("https://h/a")
    assert not places.forget("https://h/a")
    assert places.get("https://h/a") is None
