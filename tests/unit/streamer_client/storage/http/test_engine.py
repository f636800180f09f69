"""How often, and how long, an engine tries. There is no network: attempts are functions."""

from __future__ import annotations

import logging

import pytest
from tests.support.plain_dialect import PlainDialect

from streamer_client.contract.errors import SourceError, SourceForbidden
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.engine import HttpEngine, Waits
from streamer_client.storage.http.pool import ConnectionPool
from streamer_client.storage.http.retry import Attempts, RetryPolicy, SendAgain, Transient
from streamer_client.storage.http.settings import HttpSettings

REQUEST = Request("GET", "http://h/a", "http://h/a")


class Scripted:
    """An engine without a server, whose attempts have the outcomes that a test lists."""

    def __init__(self, *outcomes: Exception | str) -> None:
        self.outcomes = list(outcomes)
        self.now_s = 0.0
        self.again = 0
        policy = RetryPolicy(max_attempts=4, first_delay_s=1.0, deadline_s=100.0)
        waits = Waits(lambda: self.now_s, self.sleep, lambda: 1.0)
        self.engine = HttpEngine(ConnectionPool(HttpSettings()), PlainDialect(), policy, waits)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def run(self) -> str:
        return self.engine.with_retries(REQUEST, self.once, self.count)

    def count(self) -> None:
        self.again += 1

    def once(self, _attempts: Attempts) -> str:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_what_passes_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scripted = Scripted(Transient("busy"), Transient("busy", after_s=9), "done")
    assert scripted.run() == "done"
    assert (scripted.now_s, scripted.again) == (1.0 + 9.0, 2)
    assert "request_again about=http://h/a attempt=2 delay_s=1.00 reason=busy" in caplog.text


def test_what_does_not_pass_is_told_with_its_last_cause() -> None:
    scripted = Scripted(*(Transient(f"busy {n}", remedy="wait a day") for n in range(4)))
    with pytest.raises(SourceError) as caught:
        scripted.run()
    assert str(caught.value) == (
        "http://h/a: given up after 4 attempts in 7.0 s: busy 3; wait a day"
    )
    assert isinstance(caught.value.__cause__, Transient)
    assert scripted.again == 3


def test_an_error_is_final() -> None:
    scripted = Scripted(SourceForbidden("no"), "never")
    with pytest.raises(SourceForbidden, match="no"):
        scripted.run()
    assert scripted.again == 0


def test_a_lesson_is_used_at_once_but_not_for_ever() -> None:
    scripted = Scripted(SendAgain("region"), SendAgain("host"), "done")
    assert scripted.run() == "done"
    assert scripted.now_s == 0
    endless = Scripted(*(SendAgain("round") for _ in range(9)))
    with pytest.raises(SourceError, match="again and again, at last with round"):
        endless.run()


def test_a_server_that_was_never_reached() -> None:
    scripted = Scripted(*(Transient("refused", connecting=True) for _ in range(9)))
    with pytest.raises(SourceError, match="after 4 attempts"):
        scripted.run()
