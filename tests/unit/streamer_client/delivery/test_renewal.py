"""A load's credentials: newer ones are sent, the same ones are sent again on request, and both end
with the load.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from streamer_client.connecting.source_access import SourceAccess
from streamer_client.delivery import renewal
from streamer_client.delivery.renewal import Renewal

ANSWER_S = 20.0


class Caller:
    def __init__(self) -> None:
        self.version = "one"

    def resolved(self) -> dict[str, str]:
        return {"TOKEN": self.version}


class Load:
    """A stand-in that receives the renewed credentials."""

    def __init__(self) -> None:
        self.sent: SimpleQueue[str] = SimpleQueue()

    def renew(self, environment: dict[str, str]) -> None:
        self.sent.put(environment["TOKEN"])


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
def load() -> Load:
    return Load()


@pytest.fixture
def running(caller: Caller, load: Load) -> Iterator[Renewal]:
    made = Renewal(SourceAccess("s3://b", caller), load.renew, patience_s=0.0)
    made.sent(caller.resolved())
    yield made
    made.close()


def test_asked_for_newer_ones_are_sent(running: Renewal, caller: Caller, load: Load) -> None:
    caller.version = "two"
    running.want()
    assert load.sent.get(timeout=ANSWER_S) == "two"


def test_asked_for_and_nothing_newer_is_said_by_the_same(running: Renewal, load: Load) -> None:
    running.want()
    assert load.sent.get(timeout=ANSWER_S) == "one"


def test_newer_ones_are_sent_unasked(
    monkeypatch: pytest.MonkeyPatch, caller: Caller, load: Load
) -> None:
    monkeypatch.setattr(renewal, "CHECK_S", 0.001)
    made = Renewal(SourceAccess("s3://b", caller), load.renew)
    made.sent({"TOKEN": "zero"})
    assert load.sent.get(timeout=ANSWER_S) == "one"
    made.close()


def test_newer_ones_are_hoped_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caller: Caller, load: Load
) -> None:
    monkeypatch.setattr(renewal, "AGAIN_S", 0.001)
    asked = threading.Event()

    class Slow(Caller):
        def resolved(self) -> dict[str, str]:
            asked.set()
            return super().resolved()

    slow = Slow()
    made = Renewal(SourceAccess("s3://b", slow), load.renew, patience_s=ANSWER_S)
    made.sent({"TOKEN": "one"})
    made.want()
    assert asked.wait(ANSWER_S)
    slow.version = "two"
    assert load.sent.get(timeout=ANSWER_S) == "two"
    made.close()


def test_a_source_without_an_environment_has_no_thread(load: Load) -> None:
    before = threading.active_count()
    made = Renewal(SourceAccess("/m", Caller()), load.renew)
    made.sent({})
    assert threading.active_count() == before
    made.close()


def test_it_ends_with_whom_it_sends_to(caller: Caller) -> None:
    load = Load()
    made = Renewal(SourceAccess("s3://b", caller), load.renew, patience_s=0.0)
    made.sent({"TOKEN": "one"})
    del load
    gc.collect()
    # This wakes the renewal's thread, which ends because the load is gone. The leak check waits for
    # the end of the thread.
    made.want()
