"""Objects that threads share are opened once, closed when unused, and never closed while one uses
them.
"""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamerd.workers.in_worker.readers import Pool


class Thing:
    def __init__(self, log: list[str], name: str) -> None:
        self._log = log
        self.name = name
        log.append(f"open {name}")

    def close(self) -> None:
        self._log.append(f"close {self.name}")


@pytest.fixture
def log() -> list[str]:
    return []


def test_opened_once_and_kept(log: list[str]) -> None:
    pool: Pool[Thing] = Pool(2)
    for _ in range(3):
        with pool.borrow("a", lambda: Thing(log, "a")) as thing:
            assert thing.name == "a"
    assert log == ["open a"]
    pool.close()
    assert log == ["open a", "close a"]
    pool.close()
    assert len(log) == 2


def test_the_least_recently_used_idle_one_is_closed_first(log: list[str]) -> None:
    pool: Pool[Thing] = Pool(2)
    for name in ("a", "b", "a", "c"):
        with pool.borrow(name, functools.partial(Thing, log, name)):
            pass
    assert log == ["open a", "open b", "open c", "close b"]
    pool.close()


def test_what_is_in_use_stays_open_beyond_the_capacity(log: list[str]) -> None:
    pool: Pool[Thing] = Pool(1)
    with pool.borrow("a", lambda: Thing(log, "a")), pool.borrow("b", lambda: Thing(log, "b")):
        assert log == ["open a", "open b"]
    assert log[2:] == ["close b"] or log[2:] == ["close a"]
    pool.close()


def test_dropping_what_is_in_use_closes_it_after_its_last_user(log: list[str]) -> None:
    pool: Pool[Thing] = Pool(4)
    with pool.borrow("a", lambda: Thing(log, "a")):
        with pool.borrow("a", lambda: Thing(log, "a")):
            pool.drop("a")
            # A later user gets a new thing, because the name may mean another object by now.
            with pool.borrow("a", lambda: Thing(log, "a2")) as thing:
                assert thing.name == "a2"
        assert "close a" not in log
    assert log == ["open a", "open a2", "close a"]
    pool.drop("nothing")
    pool.close()


def test_an_error_of_the_opener_passes_and_leaves_nothing(log: list[str]) -> None:
    pool: Pool[Thing] = Pool(4)

    def refuse() -> Thing:
        raise OSError("no")

    with pytest.raises(OSError, match="no"), pool.borrow("a", refuse):
        pass
    with pool.borrow("a", lambda: Thing(log, "a")):
        pass
    pool.close()
    assert log == ["open a", "close a"]


def test_threads_open_one_thing_once(log: list[str]) -> None:
    pool: Pool[Thing] = Pool(4)
    together = threading.Barrier(8)

    def use() -> str:
        together.wait(10)
        with pool.borrow("a", lambda: Thing(log, "a")) as thing:
            return thing.name

    with ThreadPoolExecutor(8) as threads:
        assert {future.result() for future in [threads.submit(use) for _ in range(8)]} == {"a"}
    assert log == ["open a"]
    pool.close()


def test_opening_one_thing_holds_up_nobody_who_wants_another(log: list[str]) -> None:
    pool: Pool[Thing] = Pool(4)
    opening, go_on = threading.Event(), threading.Event()

    def slowly() -> Thing:
        opening.set()
        assert go_on.wait(10)
        return Thing(log, "slow")

    def use_slow() -> str:
        with pool.borrow("slow", slowly) as thing:
            return thing.name

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.submit(use_slow), threads.submit(use_slow)
        assert opening.wait(10)
        with pool.borrow("quick", lambda: Thing(log, "quick")):
            assert log == ["open quick"]
        go_on.set()
        assert (first.result(10), second.result(10)) == ("slow", "slow")
    assert log == ["open quick", "open slow"]
    pool.close()


def test_all_who_wait_for_one_opening_hear_of_its_failure_and_the_next_tries_again(
    log: list[str],
) -> None:
    pool: Pool[Thing] = Pool(4)
    opening, go_on = threading.Event(), threading.Event()
    tries: list[None] = []

    def refuse() -> Thing:
        tries.append(None)
        opening.set()
        assert go_on.wait(10)
        raise OSError("no")

    def use() -> None:
        with pytest.raises(OSError, match="no"), pool.borrow("a", refuse):
            pass

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(use)
        assert opening.wait(10)
        entry = pool._entries["a"]
        with ThreadPoolExecutor(1) as others:
            second = others.submit(use)
            while entry.users < 2:  # until the second waits for the first
                pass
            go_on.set()
            first.result(10)
            second.result(10)
    assert len(tries) == 1
    with pool.borrow("a", lambda: Thing(log, "a")) as thing:
        assert thing.name == "a"
    pool.close()


def test_dropping_what_is_meant(log: list[str]) -> None:
    pool: Pool[Thing] = Pool(4)
    for key in (("x", 1), ("x", 2), ("y", 1)):
        with pool.borrow(key, functools.partial(Thing, log, f"{key[0]}{key[1]}")):
            pass
    pool.drop_where(lambda key: isinstance(key, tuple) and key[0] == "x")
    assert log[3:] == ["close x1", "close x2"]
    pool.close()
