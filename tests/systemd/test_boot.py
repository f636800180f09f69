"""The Debian package under a real systemd: one boot, from the first installation to the purge.

The tests follow each other as the days of a node do, and share its one boot. Each of those between
installation and purge begins with a fresh start of the service, so each can run without the others.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.contract.socket import SYSTEM_SOCKET, instance_of
from tests.support.waiting import eventually
from tests.systemd.machine import Machine
from tests.systemd.node import (
    BLOCK,
    CONFIG,
    DROP_IN,
    MEMBER,
    MODEL_BYTES,
    READY_S,
    STRANGER,
    Member,
    Node,
    started,
)

pytestmark = pytest.mark.timeout(240)

ROOMY = 4 * MODEL_BYTES
TIGHT = 16 * BLOCK
"""A checkpoint goes through a window, so that a load under way needs the daemon to its end."""
PRIVATE_LIMIT_BYTES = 120 << 20


@pytest.fixture(scope="module")
def node(machine: Machine, package: Path) -> Iterator[Node]:
    """The machine with the package installed, two users, and a small /dev/shm."""
    node = Node(machine)
    node.run("mount", "-o", "remount,size=64M", "/dev/shm")
    node.files_before = node.files_of_ours()
    node.install(package)
    node.run("useradd", "--create-home", "--groups", "streamerd", MEMBER)
    node.run("useradd", "--create-home", STRANGER)
    yield node
    if machine.path("/usr/bin/streamerctl").exists():
        node.run("systemctl", "stop", "streamerd")


@pytest.fixture
def roomy(node: Node) -> Node:
    """Started with room for everything."""
    started(node, memory_limit=ROOMY)
    return node


@pytest.fixture
def tight(node: Node) -> Node:
    """Started with room for a window only."""
    started(node, memory_limit=TIGHT)
    return node


@pytest.fixture
def member(node: Node) -> Iterator[Member]:
    with Member(node) as client:
        yield client


# --- installed ------------------------------------------------------------------------------------


def test_installing_starts_and_enables_nothing(node: Node) -> None:
    assert node.show("ActiveState") == "inactive"
    assert node.show("UnitFileState") == "disabled"
    assert node.run("id", "-Gn", "streamerd").stdout.split() == ["streamerd"]
    assert "nologin" in node.run("getent", "passwd", "streamerd").stdout
    assert node.run("streamerctl", "--version").stdout.startswith("streamerctl ")


def test_the_unit_is_right_and_hardened(node: Node) -> None:
    path = node.show("FragmentPath")
    verified = node.run("systemd-analyze", "verify", "--man=no", path)
    assert verified.stdout + verified.stderr == ""
    node.run("systemd-analyze", "security", "--threshold=15", "streamerd.service")


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
    assert len(pids) == 3  # the daemon and two workers
    private_bytes = 0
    for pid in pids:
        rollup = roomy.run("cat", f"/proc/{pid}/smaps_rollup").stdout
        private_bytes += 1024 * sum(map(int, re.findall(r"Private_\w+: +(\d+) kB", rollup)))
    assert 0 < private_bytes < PRIVATE_LIMIT_BYTES


def test_a_member_loads_and_may_read_slabs_but_not_write(roomy: Node, member: Member) -> None:
    model = roomy.model("first")
    assert member.load(model) == "daemon"
    assert roomy.resident_bytes() == MODEL_BYTES
    slab = roomy.status()["sources"][0]["shards"][0]["slab"]
    stat = roomy.run("stat", "-c", "%a %U %G", f"/dev/shm{slab}")
    assert stat.stdout.split() == ["640", "streamerd", "streamerd"]
    for user, redirection, allowed in (
        (MEMBER, "<", True),
        (MEMBER, ">>", False),
        (STRANGER, "<", False),
    ):
        opened = roomy.run("bash", "-c", f": {redirection} /dev/shm{slab}", user=user, check=False)
        assert (opened.returncode == 0) == allowed, (user, redirection)
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


def test_a_killed_daemon_is_started_again_and_loads_go_on(tight: Node, member: Member) -> None:
    model = tight.model("killed")
    member.begin(model)
    pid = tight.main_pid
    tight.run("kill", "-KILL", str(pid))
    eventually(lambda: tight.restarted(pid), READY_S)
    assert tight.show("NRestarts") == "1"
    assert member.finish(model) == "daemon"


def test_a_killed_worker_is_replaced_under_a_load(tight: Node, member: Member) -> None:
    model = tight.model("worker")
    member.begin(model)
    main = tight.main_pid
    for pid in tight.processes():
        if pid != main:
            tight.run("kill", "-KILL", str(pid))
    assert member.finish(model) == "daemon"
    assert tight.status()["totals"]["worker_restarts"] >= 1
    assert tight.main_pid == main


def test_a_hung_loop_is_restarted_by_the_watchdog(roomy: Node) -> None:
    roomy.machine.write(DROP_IN, "[Service]\nWatchdogSec=1\n")
    roomy.run("systemctl", "daemon-reload")
    roomy.run("systemctl", "restart", "streamerd")
    pid = roomy.main_pid
    roomy.run("kill", "-STOP", str(pid))
    eventually(lambda: roomy.restarted(pid), READY_S)
    journal = roomy.journal()
    assert "Watchdog timeout" in journal
    assert 'File "' in journal.partition("Watchdog timeout")[2], "where it hung is not in the log"


def test_a_daemon_that_works_is_not_taken_for_hung(roomy: Node, member: Member) -> None:
    roomy.machine.write(DROP_IN, "[Service]\nWatchdogSec=1\n")
    roomy.run("systemctl", "daemon-reload")
    roomy.run("systemctl", "restart", "streamerd")
    pid = roomy.main_pid
    for turn in range(3):
        member.load(roomy.model(f"busy{turn}"))
    before = int(roomy.show("WatchdogTimestampMonotonic"))
    eventually(lambda: int(roomy.show("WatchdogTimestampMonotonic")) > before + 2_000_000)
    assert roomy.main_pid == pid


def test_a_full_mount_makes_loads_wait_and_harms_nobody(roomy: Node, member: Member) -> None:
    model = roomy.model("waiting")
    pid = roomy.main_pid
    fill = "head -c 1G /dev/zero > /dev/shm/others 2> /dev/null"
    assert roomy.run("bash", "-c", fill, check=False).returncode == 1
    asked = roomy.run("streamerctl", "prefetch", "--no-wait", model, user=MEMBER)
    assert asked.returncode == 0
    assert roomy.resident_bytes() == 0
    roomy.run("rm", "/dev/shm/others")
    assert member.load(model) == "daemon"
    assert roomy.main_pid == pid


def test_a_wrong_configuration_is_told_once_and_not_tried_again(node: Node) -> None:
    started(node, memory_limit=ROOMY)
    node.machine.write(CONFIG, "memory_limt = 1\n")
    node.run("systemctl", "restart", "streamerd", check=False)
    assert node.show("ActiveState") == "failed"
    assert (node.show("ExecMainStatus"), node.show("NRestarts")) == ("78", "0")
    assert "did you mean memory_limit" in node.journal()


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
    assert healthy["room"][0] == "warn"  # 64 MiB are as little as a container has
    assert doctor(STRANGER)["socket"] == (
        "fail",
        f"`sudo usermod -aG streamerd {STRANGER}`, then log in again",
    )
    node.run("systemctl", "stop", "streamerd")
    assert doctor(MEMBER)["service"] == ("fail", "`systemctl start streamerd`")
    node.machine.write("/dev/shm/streamerd.0badf00d.1", "left over")
    assert doctor(MEMBER)["segments"] == ("warn", "`rm /dev/shm/streamerd.0badf00d.*`")


def test_it_stops_within_seconds_under_a_load(tight: Node, member: Member) -> None:
    model = tight.model("stopped")
    member.begin(model)
    tight.run("systemctl", "stop", "streamerd", timeout_s=14)  # TimeoutStopSec would kill at 15
    assert tight.show("Result") == "success"
    assert member.finish(model) == "daemon+direct"


# --- upgraded and purged --------------------------------------------------------------------------


@pytest.fixture
def newer(package: Path, tmp_path: Path) -> Path:
    """The package's next version, with another configuration of its own."""
    tree = tmp_path / "package"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: (.*)$", r"Version: \1.1", control.read_text()))
    with (tree / CONFIG.lstrip("/")).open("a") as config:
        config.write("# new in this version\n")
    path = tmp_path / "newer.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, path]
    subprocess.run(command, check=True, capture_output=True)
    return path


def test_an_upgrade_keeps_configuration_and_memory(
    roomy: Node, member: Member, newer: Path
) -> None:
    model = roomy.model("upgraded")
    member.load(model)
    edited = roomy.machine.path(CONFIG).read_text()
    pid = roomy.main_pid
    roomy.install(newer, "-o", "Dpkg::Options::=--force-confold")
    assert roomy.restarted(pid)
    assert roomy.show("UnitFileState") == "disabled"
    assert roomy.machine.path(CONFIG).read_text() == edited
    assert "new in this version" in roomy.machine.path(CONFIG + ".dpkg-dist").read_text()
    assert roomy.resident_bytes() == MODEL_BYTES
    assert member.load(model) == "daemon"


def test_purging_leaves_nothing(roomy: Node, member: Member) -> None:
    member.load(roomy.model("purged"))
    roomy.run("dpkg", "--remove", "streamerd")
    left = "find /run/streamerd* /dev/shm -name '*streamerd*'"
    assert roomy.run("bash", "-c", left, check=False).stdout == ""
    assert roomy.machine.path(CONFIG).exists()
    roomy.run("dpkg", "--purge", "streamerd")
    assert roomy.files_of_ours() == roomy.files_before
    for database in ("passwd", "group"):
        assert roomy.run("getent", database, "streamerd", check=False).stdout == ""
    assert roomy.run("systemctl", "status", "streamerd", check=False).returncode == 4  # unknown


def test_the_scripts_name_the_system_daemons_slabs() -> None:
    root = Path(__file__).parents[2] / "systemd"
    for script in (root / "uninstall", root / "debian" / "streamerd.postrm"):
        assert instance_of(SYSTEM_SOCKET) in script.read_text()
