"""streamerctl's error where it may not connect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamer_client.connecting.connection import Connection
from streamer_client.contract.errors import DaemonUnavailable, RequestRefused
from streamerd.cli.doctor.place import Place
from streamerd.cli.request import Requester


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
    monkeypatch.setattr("streamerd.cli.request.ask_place", lambda _environ: Place.NODE)
    with pytest.raises(DaemonUnavailable) as caught:
        Requester(str(path))
    assert f"no permission to connect to {path}" in str(caught.value)
    assert "usermod -aG" in str(caught.value) or "a user of its group" in str(caught.value)


def test_in_a_pod_the_group_is_named_by_its_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    path.touch()
    refused = RequestRefused("may not be opened")
    monkeypatch.setattr(Connection, "to", _refusing(refused, PermissionError(13, "no")))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    with pytest.raises(DaemonUnavailable) as caught:
        Requester(str(path))
    assert f"add {path.stat().st_gid} to `supplementalGroups`" in str(caught.value)


def test_a_daemon_that_takes_no_more_clients_says_so_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Connection, "to", _refusing(RequestRefused("enough of you"), None))
    with pytest.raises(RequestRefused, match="enough of you"):
        Requester("/nowhere")
