"""What streamerctl says where it may not connect, or cannot open what it is asked about."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.connect.connection import Connection
from streamer_client.contract.errors import DaemonUnavailable, RequestRefused, SourceNotFound
from streamerd.cli import request
from streamerd.cli.request import Requester

NOT_THERE = "/m is not in memory; `streamerctl status` lists what is"


class Connected:
    """Stands for a connection that nothing is asked of."""

    def stop(self) -> None: ...


def _refusing(error: RequestRefused, cause: OSError | None) -> object:
    def to(*_asked: object) -> Connection:
        raise error from cause

    return to


def test_a_socket_that_may_not_be_opened_names_the_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    path.touch()
    os.chown(path, -1, os.getgid())
    refused = RequestRefused("may not be opened")
    monkeypatch.setattr(Connection, "to", _refusing(refused, PermissionError(13, "no")))
    with pytest.raises(DaemonUnavailable) as caught:
        Requester(str(path))
    assert f"no permission to connect to {path}" in str(caught.value)
    assert "usermod -aG" in str(caught.value) or "a user of its group" in str(caught.value)


def test_a_daemon_that_takes_no_more_clients_says_so_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Connection, "to", _refusing(RequestRefused("enough of you"), None))
    with pytest.raises(RequestRefused, match="enough of you"):
        Requester("/nowhere")


@pytest.mark.parametrize(
    ("transfer", "sources", "told"),
    [
        (0, ("/m",), "this user can open none of them"),
        (1, ("/m",), "lists what is$"),
        (0, ("s3://bucket/m",), "lists what is$"),
    ],
)
def test_what_cannot_be_opened_is_not_called_absent_alone(
    monkeypatch: pytest.MonkeyPatch, transfer: int, sources: tuple[str, ...], told: str
) -> None:
    @contextlib.contextmanager
    def handed_over(*_asked: object, **_options: object) -> Iterator[int]:
        yield transfer

    monkeypatch.setattr(Connection, "to", lambda *_asked: Connected())
    monkeypatch.setattr(request, "handed_over", handed_over)
    with (
        Requester("/nowhere") as requester,
        pytest.raises(SourceNotFound, match=told),
        requester.handed_over(sources, optional=True),
    ):
        raise SourceNotFound(NOT_THERE)
