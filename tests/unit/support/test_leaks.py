"""The leak check must find each kind of leak, since a check that cannot fail protects nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.support.leaks import SHM_DIR, leaked, snapshot
from tests.support.waiting import eventually


def test_nothing_is_nothing() -> None:
    assert leaked(snapshot()) == []


def test_sees_a_descriptor(tmp_path: Path) -> None:
    before = snapshot()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert leaked(before) == [f"descriptor {fd} -> {tmp_path}"]
    finally:
        os.close(fd)
    assert leaked(before) == []


def test_sees_a_thread() -> None:
    before = snapshot()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten")
    thread.start()
    try:
        assert leaked(before) == ["thread 'forgotten'"]
    finally:
        end.set()
        thread.join()


def test_sees_a_process_and_a_zombie() -> None:
    before = snapshot()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert any(line.startswith(f"process {child.pid}:") for line in leaked(before))
        assert child.stdin is not None
        child.stdin.close()
        eventually(lambda: "nobody waited" in "".join(leaked(before)))
    finally:
        child.kill()
        child.wait()
    assert leaked(before) == []


def test_sees_a_process_that_left_its_parent() -> None:
    before = snapshot()
    script = (
        "import os, subprocess, sys\n"
        "command = [sys.executable, '-c', 'input()']\n"
        "quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        "print(subprocess.Popen(command, stdin=0, **quiet).pid, flush=True)\n"
        "os._exit(0)"
    )
    read_end, write_end = os.pipe()
    try:
        answer = subprocess.run(
            [sys.executable, "-c", script], stdin=read_end, stdout=subprocess.PIPE, check=True
        )
        assert any(line.startswith(f"process {int(answer.stdout)}:") for line in leaked(before))
    finally:
        os.close(read_end)
        os.close(write_end)  # its input ends, and so does the process
    eventually(lambda: not leaked(before))


def test_sees_a_segment_that_nobody_serves() -> None:
    before = snapshot()
    segment = SHM_DIR / "streamerd.leaktest.0"
    segment.touch()
    try:
        assert leaked(before) == [f"segment {segment}"]
    finally:
        segment.unlink()


def test_a_segment_of_a_living_daemon_is_no_leak() -> None:
    segment = SHM_DIR / "streamerd.leaktest.1"
    script = (
        f"import mmap; file = open({str(segment)!r}, 'r+b'); m = mmap.mmap(file.fileno(), 0)\n"
        "print(flush=True); input()"
    )
    segment.write_bytes(b"x" * 4096)
    try:
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as daemon:
            assert daemon.stdout is not None
            daemon.stdout.readline()
            now = snapshot()
            # The segments of other processes on this machine count as there before.
            others = now.segments - {segment.name}
            before = type(now)(now.descriptors, now.threads, now.processes, others)
            assert leaked(before) == []
            daemon.communicate(b"\n")
        assert leaked(before) == [f"segment {segment}"]
    finally:
        segment.unlink()


def test_eventually_gives_the_answer_and_tells_the_last_failure() -> None:
    answers = iter([0, None, "there"])
    assert eventually(lambda: next(answers)) == "there"

    def not_yet() -> bool:
        raise AssertionError("three of four")

    with pytest.raises(AssertionError, match=r"not_yet.*three of four"):
        eventually(not_yet, deadline_s=0)
