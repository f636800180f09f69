"""Threads that may be lost are started when needed, replaced when lost, and never waited for after
that.
"""

from __future__ import annotations

import os
import threading

from tests.support.waiting import eventually

from streamerd.workers.threads import CLOSING_THREADS, Closer, Threads


def running(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


def test_started_when_there_is_work_and_no_more_than_needed() -> None:
    threads = Threads("few", 3)
    assert running("few") == 0
    for _ in range(5):
        done = threading.Event()

        def call(done: threading.Event = done) -> bool:
            done.set()
            return True

        threads.submit(call)
        assert done.wait(10)
        eventually(lambda: threads._idle == running("few"))
    assert running("few") == 1
    go = threading.Event()
    for _ in range(9):
        threads.submit(lambda: go.wait(10))
    eventually(lambda: running("few") == 3)
    go.set()
    threads.end()
    eventually(lambda: running("few") == 0)


def test_a_lost_thread_is_made_up_for_and_ends_when_it_wakes() -> None:
    threads, go, done = Threads("lost", 1), threading.Event(), threading.Event()
    begun = threading.Event()

    def stuck() -> bool:
        begun.set()
        go.wait(10)
        return False

    def call() -> bool:
        done.set()
        return True

    threads.submit(stuck)
    assert begun.wait(10)
    threads.submit(call)
    assert running("lost") == 1
    threads.lose()
    assert done.wait(10)
    threads.end()  # this does not wait for the lost thread
    assert running("lost") >= 1
    go.set()
    eventually(lambda: running("lost") == 0)


def test_what_was_not_begun_can_be_cancelled() -> None:
    threads, go, called = Threads("cut", 1), threading.Event(), list[int]()
    threads.submit(lambda: go.wait(10))
    eventually(lambda: running("cut") == 1)

    def call() -> bool:
        called.append(1)
        return True

    threads.submit(call)
    ender = threading.Thread(target=lambda: threads.end(cancel=True))
    eventually(lambda: threads._idle < 0)
    ender.start()
    # The call is dropped, and only the entry that ends the thread is left in the queue.
    eventually(lambda: threads._calls.qsize() == 1)
    go.set()
    ender.join()
    assert called == []


def test_a_close_that_hangs_holds_up_no_other() -> None:
    closer, go = Closer(), threading.Event()
    read_end, write_end = os.pipe()

    def hang() -> None:
        go.wait(10)

    for _ in range(CLOSING_THREADS - 1):
        closer.call(hang)
    # A number that is no descriptor is only logged.
    closer.close([write_end, 1_000_000])
    assert os.read(read_end, 1) == b""
    os.close(read_end)
    go.set()
    closer.end(10)
    eventually(lambda: running("closing") == 0)
