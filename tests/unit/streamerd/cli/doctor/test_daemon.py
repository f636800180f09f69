"""Service, socket and daemon: each state has its verdict and its remedy."""

from __future__ import annotations

import errno

import pytest

from streamerd.cli.doctor.daemon import (
    DaemonFacts,
    ServiceFacts,
    SocketFacts,
    check_daemon,
    check_service,
    check_socket,
)
from streamerd.cli.doctor.finding import State

PATH = "/run/streamerd/control.sock"
ANSWER = DaemonFacts("1.0", pid=7, uptime_s=61.7, instance="i", limit_bytes=1 << 30, used_bytes=0)


@pytest.mark.parametrize(
    ("service", "answers", "state", "remedy"),
    [
        (ServiceFacts(), False, State.NOTE, ""),
        (ServiceFacts("not-found", "inactive"), False, State.NOTE, ""),
        (ServiceFacts("loaded", "active", "success"), True, State.OK, ""),
        (ServiceFacts("loaded", "failed", "exit-code"), False, State.FAILED, "journalctl"),
        (ServiceFacts("loaded", "failed", "exit-code", 0, 78), False, State.FAILED, "--check"),
        (ServiceFacts("loaded", "inactive"), False, State.FAILED, "systemctl start"),
        (ServiceFacts("loaded", "inactive"), True, State.WARNING, "systemctl start"),
        (ServiceFacts("loaded", "activating"), False, State.WARNING, "journalctl"),
    ],
)
def test_the_unit(service: ServiceFacts, answers: bool, state: State, remedy: str) -> None:
    finding = check_service(service, answers=answers)
    assert finding.state is state
    assert remedy in finding.remedy


def test_restarts_of_the_unit_are_told() -> None:
    assert (
        "restarted 3 times"
        in check_service(ServiceFacts("loaded", "active", "", 3), answers=True).text
    )


@pytest.mark.parametrize(
    ("error", "group", "in_database", "in_session", "state", "remedy"),
    [
        (None, "streamerd", True, True, State.OK, ""),
        (errno.ENOENT, "", False, False, State.WARNING, "systemctl start streamerd"),
        (errno.ECONNREFUSED, "streamerd", True, True, State.FAILED, "systemctl start streamerd"),
        (errno.EACCES, "models", False, False, State.FAILED, "usermod -aG models ann"),
        (errno.EACCES, "", False, False, State.FAILED, "usermod -aG streamerd ann"),
        (errno.EACCES, "streamerd", True, False, State.FAILED, "log in again"),
        (errno.EACCES, "streamerd", True, True, State.FAILED, f"chmod 0660 {PATH}"),
        (errno.ENOTSOCK, "streamerd", True, True, State.FAILED, "log"),
    ],
)
def test_the_socket(
    error: int | None, group: str, in_database: bool, in_session: bool, state: State, remedy: str
) -> None:
    facts = SocketFacts(PATH, "ann", error, group, in_database=in_database, in_session=in_session)
    finding = check_socket(facts)
    assert finding.state is state
    assert remedy in finding.remedy
    assert finding.text.startswith(PATH)


def test_the_daemon() -> None:
    assert check_daemon(ANSWER, "1.0").state is State.OK
    assert check_daemon(None, "1.0").state is State.NOTE
    silent = check_daemon("accepts connections and has not answered", "1.0")
    assert (silent.state, silent.remedy) == (State.FAILED, "`systemctl restart streamerd`")
    older = check_daemon(ANSWER, "2.0")
    assert older.state is State.WARNING
    assert "version 1.0" in older.text
    assert "2.0" in older.text
