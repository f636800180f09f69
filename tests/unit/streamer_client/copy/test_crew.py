"""Threads that start one another all work, and all end, also where the system refuses one."""

from __future__ import annotations

import threading

import pytest

from streamer_client.copy.crew import Crew


def test_each_thread_works_once() -> None:
    names: list[str] = []
    everyone = threading.Barrier(5)

    def work() -> None:
        everyone.wait(10)
        names.append(threading.current_thread().name)

    Crew(work, 5, "worker").join()
    assert sorted(names) == [f"worker-{place}" for place in range(5)]


def test_fewer_work_where_the_system_refuses_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    start = threading.Thread.start

    def refusing(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    worked: list[int] = []
    Crew(lambda: worked.append(1), 4, "worker").join()
    assert (len(worked), started) == (2, ["worker-0", "worker-1"])
    with pytest.raises(RuntimeError, match="can't start"):
        Crew(lambda: worked.append(1), 4, "worker")
