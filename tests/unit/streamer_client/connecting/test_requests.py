"""Each request about the daemon: its message, the files and variables that travel with it, and its
valid answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from streamer_client.connecting.connection import Connection
from streamer_client.connecting.requests import ANSWER_TIMEOUT_S, Admin, Prefetching
from streamer_client.contract import messages as m
from streamer_client.contract.errors import (
    DaemonUnavailable,
    ProtocolMismatch,
    SourceNotFound,
    StreamerError,
)
from streamer_client.storage.local_files import LocalFile

NOT_THERE = "/m is not in memory; `streamerctl status` lists what is"
TRANSFER = 7


class PaperConnection:
    """A stand-in for a connection: it gives each request the same answer, and notes the
    requests.
    """

    def __init__(self, answer: m.DaemonMessage | StreamerError) -> None:
        self._answer = answer
        self.asked: list[m.Message] = []
        self.timeouts: list[float | None] = []
        self.handed: list[str] = []
        self.dropped: list[int] = []

    def request(
        self,
        build: Callable[[int], m.Message],
        timeout_s: float | None = None,
        *,
        progress: Callable[[m.Verifying], None] | None = None,
    ) -> m.DaemonMessage:
        self.asked.append(build(1))
        self.timeouts.append(timeout_s)
        if progress is not None:
            progress(m.Verifying(1, 5, 10))
        if isinstance(self._answer, StreamerError):
            raise self._answer
        return self._answer

    def hand_over(self, files: Sequence[LocalFile]) -> int:
        self.handed += [file.uri for file in files]
        return TRANSFER

    def drop(self, transfer: int) -> None:
        self.dropped.append(transfer)


class PaperWay:
    """A stand-in for the link to a daemon."""

    socket_path = "/run/s"

    def __init__(self, answer: m.DaemonMessage | StreamerError) -> None:
        self.paper = PaperConnection(answer)

    @property
    def connection(self) -> Connection:
        return cast("Connection", self.paper)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"x")
    return tmp_path


def test_status_and_config_are_answered_at_once_or_not_at_all() -> None:
    way = PaperWay(m.Status(1, {"pid": 3}))
    assert Admin(way).status() == {"pid": 3}
    assert (way.paper.asked, way.paper.timeouts) == ([m.GetStatus(1)], [ANSWER_TIMEOUT_S])
    way = PaperWay(m.Config(1, {"workers": {"value": 2, "origin": "flag"}}))
    assert Admin(way).config()["workers"] == {"value": 2, "origin": "flag"}


def test_a_prefetch_hands_its_files_over_and_drops_them_when_it_runs(model: Path) -> None:
    way = PaperWay(m.Accepted(1, ("id",), 2))
    assert Admin(way).prefetch(str(model), "a*", pin=True, limit_bytes=9) == Prefetching(("id",), 2)
    assert way.paper.asked == [m.Prefetch(1, str(model), TRANSFER, "a*", True, 9)]
    assert way.paper.timeouts == [None], "a store may take its time"
    assert way.paper.handed == [str(model / "a.safetensors")]
    assert way.paper.dropped == [TRANSFER]


def test_a_prefetch_of_files_that_cannot_be_opened_is_not_asked_for(tmp_path: Path) -> None:
    way = PaperWay(m.Accepted(1, (), 0))
    with pytest.raises(SourceNotFound, match="gone"):
        Admin(way).prefetch(str(tmp_path / "gone"))
    assert not way.paper.asked


def test_sources_are_known_by_file_where_they_open_and_by_name_where_not(model: Path) -> None:
    way = PaperWay(m.Done(1, "3 shards"))
    gone = str(model / "gone")
    sources = (str(model), gone, "s3://bucket/m", f"file://{model}/a.safetensors")
    assert Admin(way).evict(*sources) == "3 shards"
    named = (str(model), gone, "s3://bucket/m", f"{model}/a.safetensors")
    assert way.paper.asked == [m.Evict(1, named, TRANSFER)]
    assert sorted(set(way.paper.handed)) == [f"{model}/a.safetensors", f"{model}/b.safetensors"]


def test_objects_are_pinned_by_name_alone() -> None:
    way = PaperWay(m.Done(1, "kept"))
    admin = Admin(way)
    assert (admin.pin("s3://bucket/m"), admin.unpin("s3://bucket/m")) == ("kept", "kept")
    assert way.paper.asked == [m.Pin(1, "s3://bucket/m"), m.Unpin(1, "s3://bucket/m")]
    assert not way.paper.handed


def test_how_far_a_verification_is_comes_before_its_outcome(model: Path) -> None:
    verified = m.Verified(1, 10, 0, ())
    way = PaperWay(verified)
    told: list[m.Verifying] = []
    assert Admin(way).verify(str(model), progress=told.append) == verified
    assert way.paper.asked == [m.Verify(1, str(model), TRANSFER)]
    assert told == [m.Verifying(1, 5, 10)]


def test_an_answer_of_another_kind_is_a_mismatch() -> None:
    with pytest.raises(ProtocolMismatch, match=r"/run/s answered with Config where Status was due"):
        Admin(PaperWay(m.Config(1, {}))).status()


def test_without_a_daemon_there_is_nobody_to_ask() -> None:
    with pytest.raises(DaemonUnavailable, match="reads without a daemon"):
        Admin.none()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("/gone", "this user can open none of them$"),
        ("/there", "lists what is$"),
        ("s3://bucket/m", "lists what is$"),
    ],
)
def test_what_cannot_be_opened_is_not_called_absent_alone(
    model: Path, source: str, told: str
) -> None:
    way = PaperWay(SourceNotFound(NOT_THERE))
    with pytest.raises(SourceNotFound, match=told):
        Admin(way).evict(source.replace("/there", str(model)).replace("/gone", f"{model}/gone"))
    assert way.paper.dropped, "the files are given back, whatever the answer"
