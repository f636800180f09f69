"""The messages to systemd, and when they are sent."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from streamerd.notify import SignsOfLife, notify, reloading, watchdog_s


class Heard:
    """A stand-in for systemd."""

    def __init__(self) -> None:
        self.said: list[tuple[str, ...]] = []

    def __call__(self, *assignments: str) -> None:
        self.said.append(assignments)

    def signs(self) -> int:
        return sum("WATCHDOG=1" in said for said in self.said)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "500000"}, 0.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0", "WATCHDOG_PID": "7"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_for_the_process_it_names(
    environ: dict[str, str], expected: float | None
) -> None:
    assert watchdog_s(environ, pid=7) == expected


@pytest.mark.parametrize("patience_s", [0.25, 2.0, 3.0, 30.0])
def test_a_sign_comes_at_least_twice_in_the_time_allowed(patience_s: float) -> None:
    heard = Heard()
    signs = SignsOfLife(patience_s, tick_s=1.0, send=heard)
    now_s, gaps, last_s = 100.0, [], 100.0
    for _ in range(200):
        before = heard.signs()
        signs.tick(now_s, "")
        if heard.signs() > before:
            gaps.append(now_s - last_s)
            last_s = now_s
        now_s += signs.tick_s
    assert gaps[0] == 0.0
    assert max(gaps) <= patience_s / 2
    assert signs.tick_s <= 1.0


def test_a_patient_watchdog_is_not_told_each_second() -> None:
    heard = Heard()
    signs = SignsOfLife(30.0, tick_s=1.0, send=heard)
    for second in range(60):
        signs.tick(float(second), "")
    assert heard.signs() == 4  # at 0, 15, 30 and 45 s


def test_without_a_watchdog_only_changes_of_status_are_told() -> None:
    heard = Heard()
    signs = SignsOfLife(None, tick_s=1.0, send=heard)
    for status in ("a", "a", "b", "b"):
        signs.tick(0.0, status)
    assert heard.said == [("STATUS=a",), ("STATUS=b",)]


def test_notify_sends_one_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1", "STATUS=here")
        assert manager.recv(200) == b"READY=1\nSTATUS=here"
        reloading()
        first, second = manager.recv(200).split(b"\n")
    assert first == b"RELOADING=1"
    assert second.removeprefix(b"MONOTONIC_USEC=").isdigit()


def test_nobody_listening_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")
    assert "event=systemd_not_told" in caplog.text
    monkeypatch.delenv("NOTIFY_SOCKET")
    caplog.clear()
    notify("READY=1")
    assert not caplog.text
