"""Requests to daemons are repeated if a daemon died, sent with newer credentials, and a promise is
asked for once.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from tests.support.paper_connection import PaperConnection, shard

from streamer_client.connecting.link import Link
from streamer_client.connecting.source_access import SourceAccess
from streamer_client.contract.errors import (
    CredentialsExpired,
    DaemonUnavailable,
    SourceChanged,
    StreamerError,
)
from streamer_client.contract.messages import Open, Prefetch
from streamer_client.copy.feed import FeedClosed
from streamer_client.delivery.load_requests import OPEN_ATTEMPTS, LoadRequests
from streamer_client.storage.local_files import LocalFile


class PaperLink:
    """Returns the connections one after the other, each until it is dead."""

    def __init__(self, *connections: PaperConnection) -> None:
        self.connections = list(connections)

    @property
    def connection(self) -> PaperConnection:
        while not self.connections[0].alive and len(self.connections) > 1:
            self.connections.pop(0)
        return self.connections[0]


class Environment:
    def __init__(self, *versions: str) -> None:
        self.versions = list(versions)

    def resolved(self) -> dict[str, str]:
        version = self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]
        return {"TOKEN": version} if version else {}


def requests(
    *connections: PaperConnection,
    versions: tuple[str, ...] = ("",),
    files: tuple[LocalFile, ...] = (),
) -> LoadRequests:
    link = cast("Link", PaperLink(*connections))
    access = SourceAccess("s3://b/m", Environment(*versions))
    return LoadRequests(link, Open(0, 0, "s3://b/m"), access, files)


def never() -> bool:
    return False


def test_the_next_daemon_is_asked_where_one_died_before_it_answered() -> None:
    first, second = PaperConnection(DaemonUnavailable("died")), PaperConnection()
    load = requests(first, second).first(never)
    assert load.connection is second.real
    assert [one.want for one in second.opens] == ["all"]


def test_not_for_ever() -> None:
    connections = [PaperConnection(DaemonUnavailable("died")) for _ in range(OPEN_ATTEMPTS + 1)]
    with pytest.raises(DaemonUnavailable, match="died"):
        requests(*connections).first(never)
    assert not connections[-1].opens


def test_a_cancelled_open_is_closed() -> None:
    with pytest.raises(FeedClosed):
        requests(PaperConnection()).first(lambda: True)


def test_expired_credentials_are_replaced_once_by_newer_ones() -> None:
    connection = PaperConnection(CredentialsExpired("expired"))
    made = requests(connection, versions=("old", "new"))
    made.first(never)
    made.close()
    assert [one.environment for one in connection.opens] == [{"TOKEN": "old"}, {"TOKEN": "new"}]


def test_expired_credentials_without_newer_ones_are_told() -> None:
    connection = PaperConnection(CredentialsExpired("expired"))
    with pytest.raises(CredentialsExpired):
        requests(connection, versions=("old",)).first(never)
    assert len(connection.opens) == 1


def test_again_wants_nothing_and_names_the_shards() -> None:
    connection = PaperConnection()
    made = requests(connection)
    before = made.first(never)
    made.again(before, ("m",), never, hold=False)
    again = connection.opens[1]
    assert (again.want, again.options.hold, again.files, again.pattern) == (
        "none",
        False,
        ("m",),
        None,
    )


def test_again_with_another_identity_is_a_change() -> None:
    connection = PaperConnection(
        [shard("m", held=True)], [shard("m", held=True, identity="another")]
    )
    made = requests(connection)
    with pytest.raises(SourceChanged, match="m changed while"):
        made.again(made.first(never), ("m",), never, hold=True)
    assert list(connection.listeners) == [1], "the changed one is closed"


# --- promises -------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> LocalFile:
    path = tmp_path / "m"
    path.write_bytes(b"m")
    return LocalFile(str(path), direct=False)


def test_files_that_are_not_promised_are_dropped_with_the_answer(file: LocalFile) -> None:
    connection = PaperConnection()
    requests(connection, files=(file,)).first(never)
    assert connection.dropped == [1]
    file.close()


def test_promised_files_are_brought_in_and_dropped_once(file: LocalFile) -> None:
    connection = PaperConnection()
    made = requests(connection, files=(file,))
    made.first(never, wants_all=False, promised=True)
    assert (connection.dropped, connection.opens[0].want) == ([], "none")
    made.bring_in()
    made.bring_in()
    made.close()
    assert connection.dropped == [1]
    (prefetch,) = connection.sent
    assert isinstance(prefetch, Prefetch)
    assert (prefetch.source, prefetch.transfer) == ("s3://b/m", 1)
    file.close()


@pytest.mark.parametrize("end", ["close", "cancel_promise"])
def test_a_promise_that_is_cancelled_brings_nothing_in(file: LocalFile, end: str) -> None:
    connection = PaperConnection()
    made = requests(connection, files=(file,))
    made.first(never, wants_all=False, promised=True)
    getattr(made, end)()
    made.bring_in()
    assert (connection.dropped, connection.sent) == ([1], [])
    file.close()


def test_the_promise_survives_newer_credentials(file: LocalFile) -> None:
    connection = PaperConnection(CredentialsExpired("expired"))
    made = requests(connection, versions=("old", "new"), files=(file,))
    made.first(never, wants_all=False, promised=True)
    made.close()
    assert connection.dropped == [1, 2]
    file.close()


def test_a_refusal_drops_the_files(file: LocalFile) -> None:
    connection = PaperConnection(StreamerError("no"))
    with pytest.raises(StreamerError, match="no"):
        requests(connection, files=(file,)).first(never, promised=True)
    assert connection.dropped == [1]
    file.close()
