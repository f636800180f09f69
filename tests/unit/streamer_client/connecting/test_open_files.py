"""The limit of open files is raised where it is too low, and no further than needed."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer_client.connecting import source_access
from streamer_client.connecting.source_access import (
    DESCRIPTORS_A_SHARD,
    SPARE,
    make_room,
    open_files,
)
from streamer_client.contract.errors import SourceError, SourceNotFound

Limit = Callable[[int], None]


@pytest.fixture
def limit() -> Iterator[Limit]:
    """Sets the soft limit for one test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def lowered(soft: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))

    yield lowered
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(100):
        (tmp_path / f"{number}.safetensors").write_bytes(b"x" * number)
    return tmp_path


def soft() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def is_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_enough_room_is_left_alone(limit: Limit) -> None:
    limit(is_open() + 10 + SPARE + 8)
    before = soft()
    assert not make_room(10)
    assert soft() == before


def test_lacking_room_is_made_as_far_as_needed(limit: Limit) -> None:
    limit(is_open() + 20)
    assert make_room(10)
    assert is_open() + 10 + SPARE - 4 <= soft() <= is_open() + 10 + SPARE + 4


def test_the_hard_limit_is_the_most(limit: Limit) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit(is_open() + 20)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("this process has no hard limit")
    assert make_room(2 * hard)
    assert soft() == hard


def test_where_it_cannot_be_raised_nothing_is_said(
    limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(is_open() + 20)
    before = soft()

    def refuse(*_: object) -> None:
        raise ValueError("not allowed")

    with monkeypatch.context() as patched:
        patched.setattr(resource, "setrlimit", refuse)
        assert not make_room(10)
    assert soft() == before


def test_a_checkpoint_of_many_shards_opens_at_a_low_limit(limit: Limit, source: Path) -> None:
    limit(is_open() + 20)
    files = open_files(str(source), None, None)
    assert len(files) == 100
    assert soft() >= is_open()
    assert soft() - is_open() >= 100 * (DESCRIPTORS_A_SHARD - 2)
    for file in files:
        file.close()


def test_where_the_room_does_not_suffice_it_is_told(
    limit: Limit, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_access, "make_room", lambda _count: False)
    limit(is_open() + 20)
    with pytest.raises(SourceError, match="ulimit -n"):
        open_files(str(source), None, None)


def test_what_is_asked_for_is_opened(source: Path) -> None:
    files = open_files(str(source), None, [str(source / "7.safetensors")])
    assert [(file.uri, file.shard.size_bytes) for file in files] == [
        (str(source / "7.safetensors"), 7)
    ]
    files[0].close()
    with pytest.raises(SourceNotFound, match=r"\*\.bin"):
        open_files(str(source), "*.bin", None)
