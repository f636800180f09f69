"""The service under a real systemd when something goes wrong: it is killed, hangs, is full, or gets
nonsense.
"""

from __future__ import annotations

import json

import pytest

from tests.support.waiting import eventually
from tests.systemd.node import CONFIG, DROP_IN, MEMBER, READY_S, ROOMY, Member, Node, started

pytestmark = pytest.mark.timeout(240)


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
    others = [str(pid) for pid in tight.processes() if pid != main]
    # A process may be gone before its turn, as workers end with the process that starts them.
    tight.run("kill", "-KILL", *others, check=False)
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


def test_a_reload_with_a_mistake_fails_and_changes_nothing(roomy: Node) -> None:
    pid = roomy.main_pid
    right = roomy.machine.path(CONFIG).read_text()
    roomy.machine.write(CONFIG, right + "memory_limt = 1\n")
    done = roomy.run("systemctl", "reload", "streamerd", check=False)
    roomy.machine.write(CONFIG, right)
    assert done.returncode != 0
    assert (roomy.main_pid, roomy.is_active) == (pid, True)
    errors = ("journalctl", "-b", "-u", "streamerd", "-p", "err", "-o", "cat")
    eventually(lambda: "did you mean memory_limit" in roomy.run(*errors).stdout)
    assert roomy.status()["memory"]["limit_bytes"] == ROOMY


def test_the_doctor_tells_a_wrong_configuration_from_other_failures(node: Node) -> None:
    node.machine.write(CONFIG, "memory_limt = 1\n")
    node.run("systemctl", "restart", "streamerd", check=False)
    done = node.run("streamerctl", "doctor", "--json", check=False)
    (service,) = [each for each in json.loads(done.stdout) if each["check"] == "service"]
    assert (service["state"], "streamerd --check" in service["remedy"]) == ("fail", True)


def test_it_stops_within_seconds_under_a_load(tight: Node, member: Member) -> None:
    model = tight.model("stopped")
    member.begin(model)
    # TimeoutStopSec would make systemd kill the service after 15 s.
    tight.run("systemctl", "stop", "streamerd", timeout_s=14)
    assert tight.show("Result") == "success"
    assert member.finish(model) == "daemon+direct"
