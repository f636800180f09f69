"""The Debian package under a real systemd: installed, started, loaded from, reloaded, restarted.

All files here share one boot, and the last of them purges the package. Each test that runs the
service starts it afresh, so each can run without the others.
"""

from __future__ import annotations

import json
import re

import pytest

from streamer_client.contract.socket import SYSTEM_SOCKET
from tests.support.waiting import eventually
from tests.systemd.node import (
    MEMBER,
    MODEL_BYTES,
    ROOMY,
    STRANGER,
    TIGHT,
    Member,
    Node,
    started,
)

pytestmark = pytest.mark.timeout(240)

PRIVATE_LIMIT_BYTES = 120 << 20


# --- installed ------------------------------------------------------------------------------------


def test_installing_starts_and_enables_nothing(node: Node) -> None:
    assert node.show("ActiveState") == "inactive"
    assert node.show("UnitFileState") == "disabled"
    assert node.run("id", "-Gn", "streamerd").stdout.split() == ["streamerd"]
    assert "nologin" in node.run("getent", "passwd", "streamerd").stdout
    assert node.run("streamerctl", "--version").stdout.startswith("streamerctl ")


def test_the_unit_is_right_and_hardened(node: Node) -> None:
    path = node.show("FragmentPath")
    page = node.machine.path("/usr/share/man/man8/streamerd.8.gz")
    man = "yes" if page.exists() else "no"  # images for containers leave manual pages out
    verified = node.run("systemd-analyze", "verify", f"--man={man}", path)
    assert verified.stdout + verified.stderr == ""
    node.run("systemd-analyze", "security", "--threshold=13", "streamerd.service")


def test_enabling_it_makes_it_start_at_boot(node: Node) -> None:
    node.run("systemctl", "enable", "streamerd")
    assert (
        "streamerd.service"
        in node.run("systemctl", "show", "-P", "Wants", "multi-user.target").stdout
    )
    node.run("systemctl", "disable", "streamerd")


# --- running --------------------------------------------------------------------------------------


def test_when_start_returns_it_answers_members_of_the_group(roomy: Node) -> None:
    roomy.run("systemctl", "restart", "streamerd")
    assert roomy.status()["pid"] == roomy.main_pid
    assert roomy.status()["memory"]["limit_bytes"] == ROOMY
    told = roomy.show("StatusText")
    assert told == "0 B of 32.0 MiB (0%) in memory; loads: 0 running, 0 waiting"


def test_a_stranger_is_refused_and_told_what_to_do(roomy: Node) -> None:
    refused = roomy.run("streamerctl", "status", user=STRANGER, check=False)
    assert refused.returncode == 69
    assert f"no permission to connect to {SYSTEM_SOCKET}" in refused.stderr
    assert f"usermod -aG streamerd {STRANGER}" in refused.stderr


def test_idle_it_needs_little_memory_of_its_own(roomy: Node) -> None:
    pids = roomy.processes()
    assert len(pids) == 4  # the daemon, the process that starts its workers, and two workers
    private_bytes = 0
    for pid in pids:
        rollup = roomy.run("cat", f"/proc/{pid}/smaps_rollup").stdout
        private_bytes += 1024 * sum(map(int, re.findall(r"Private_\w+: +(\d+) kB", rollup)))
    assert 0 < private_bytes < PRIVATE_LIMIT_BYTES


def test_a_member_loads_and_has_slabs_from_the_daemon_alone(roomy: Node, member: Member) -> None:
    model = roomy.model("first")
    assert member.load(model) == "daemon"
    assert roomy.resident_bytes() == MODEL_BYTES
    slab = roomy.status()["sources"][0]["shards"][0]["slab"]
    stat = roomy.run("stat", "-c", "%a %U %G", f"/dev/shm{slab}")
    assert stat.stdout.split() == ["600", "streamerd", "streamerd"]
    for user in (MEMBER, STRANGER):
        for redirection in ("<", ">>"):
            command = f": {redirection} /dev/shm{slab}"
            assert roomy.run("bash", "-c", command, user=user, check=False).returncode != 0
    eventually(lambda: "8.00 MiB of 32.0 MiB (25%)" in roomy.show("StatusText"))


def test_a_reload_during_a_load_takes_the_new_limit_over(tight: Node, member: Member) -> None:
    model = tight.model("reloaded")
    member.begin(model)
    pid = tight.main_pid
    tight.configure(memory_limit=2 * TIGHT)
    tight.run("systemctl", "reload", "streamerd")
    eventually(lambda: tight.status()["memory"]["limit_bytes"] == 2 * TIGHT)
    eventually(lambda: tight.is_active)
    assert member.finish(model) == "daemon"
    assert tight.main_pid == pid


def test_the_journal_tells_each_load_with_its_priority(roomy: Node, member: Member) -> None:
    model = roomy.model("told")
    member.load(model)

    def lines(*priority: str) -> list[str]:
        command = ("journalctl", "-b", "-u", "streamerd", "-o", "cat", "--no-pager", *priority)
        return roomy.run(*command).stdout.splitlines()

    eventually(lambda: any(f"event=load_ended source={model} " in line for line in lines()))
    assert not any(line.startswith("<") for line in lines())
    assert not any("event=load_ended" in line for line in lines("-p", "notice"))
    roomy.run("kill", "-KILL", str(max(roomy.processes())), check=False)
    eventually(lambda: any("event=worker_died" in line for line in lines("-p", "warning")))


def test_a_restart_during_a_load_is_survived(tight: Node, member: Member) -> None:
    model = tight.model("restarted")
    member.begin(model)
    pid = tight.main_pid
    tight.run("systemctl", "restart", "streamerd")
    assert tight.restarted(pid)
    assert member.finish(model) == "daemon"


def test_a_restart_keeps_what_is_in_memory(roomy: Node, member: Member) -> None:
    model = roomy.model("kept")
    member.load(model)
    roomy.run("systemctl", "restart", "streamerd")
    assert roomy.resident_bytes() == MODEL_BYTES
    member.load(model)
    assert roomy.status()["totals"]["source_read_bytes"] == 0


def test_the_doctor_knows_what_is_wrong(node: Node) -> None:
    def doctor(user: str) -> dict[str, tuple[str, str]]:
        done = node.run("streamerctl", "doctor", "--json", user=user, check=False)
        findings = {f["check"]: (f["state"], f["remedy"]) for f in json.loads(done.stdout)}
        failed = "fail" in {state for state, _ in findings.values()}
        assert done.returncode == (1 if failed else 0)
        return findings

    started(node, memory_limit=ROOMY)
    healthy = doctor(MEMBER)
    for check in ("service", "socket", "daemon", "cgroup", "segments", "kernel"):
        assert healthy[check][0] == "ok", healthy
    assert healthy["room"][0] == "warn"  # /dev/shm has 64 MiB, as little as in a container
    assert doctor(STRANGER)["socket"] == (
        "fail",
        f"`sudo usermod -aG streamerd {STRANGER}`, then log in again",
    )
    node.run("systemctl", "stop", "streamerd")
    assert doctor(MEMBER)["service"] == ("fail", "`systemctl start streamerd`")
    node.machine.write("/dev/shm/streamerd.0badf00d.1", "left over")
    assert doctor("root")["segments"] == ("warn", "`rm /dev/shm/streamerd.0badf00d.*`")
    # A member is not told to remove slabs of another user, as it could not.
    assert doctor(MEMBER)["segments"][0] == "ok"
