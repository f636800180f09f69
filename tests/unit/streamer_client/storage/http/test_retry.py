"""The failures after which a request is made again."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.environment import retry_policy
from streamer_client.storage.http.retry import UNREACHED_ATTEMPTS, Attempts, RetryPolicy, Transient

POLICY = RetryPolicy(max_attempts=6, first_delay_s=1.0, max_delay_s=5.0, deadline_s=100.0)


def delays(attempts: Attempts, fault: Transient, chance: float = 1.0) -> list[float | None]:
    found: list[float | None] = []
    while not found or found[-1] is not None:
        found.append(attempts.delay_s(fault, 0.0, chance, reached=True))
    return found


def test_waits_grow_to_their_bound_and_end() -> None:
    assert delays(Attempts(POLICY, 0.0), Transient("x")) == [1.0, 2.0, 4.0, 5.0, 5.0, None]


def test_full_jitter() -> None:
    assert delays(Attempts(POLICY, 0.0), Transient("x"), 0.0) == [0.0] * 5 + [None]
    assert delays(Attempts(POLICY, 0.0), Transient("x"), 0.5)[:3] == [0.5, 1.0, 2.0]


def test_a_server_may_ask_for_more_within_reason() -> None:
    asked = [
        Attempts(POLICY, 0.0).delay_s(Transient("x", after_s=after_s), 0.0, 0.0, reached=True)
        for after_s in (0.5, 20.0, 3600.0)
    ]
    assert asked == [0.5, 20.0, POLICY.max_asked_delay_s]


def test_progress_starts_the_count_anew_but_not_the_deadline() -> None:
    attempts = Attempts(POLICY, 0.0)
    for _ in range(20):
        assert attempts.delay_s(Transient("x"), 90.0, 1.0, reached=True) == 1.0
        attempts.progressed()
    assert attempts.delay_s(Transient("x"), 99.5, 1.0, reached=True) is None
    assert attempts.summary(99.5) == "21 attempts in 99.5 s, 1 of them since bytes last came"


def test_attempts_without_progress_are_told_as_one_count() -> None:
    attempts = Attempts(POLICY, 10.0)
    delays(attempts, Transient("x"))
    assert attempts.summary(12.0) == "6 attempts in 2.0 s"


def test_a_server_that_never_answered_is_given_up_sooner() -> None:
    fault = Transient("refused", connecting=True)
    attempts = Attempts(POLICY, 0.0)
    found = [attempts.delay_s(fault, 0.0, 0.0, reached=False) for _ in range(UNREACHED_ATTEMPTS)]
    assert found == [0.0] * (UNREACHED_ATTEMPTS - 1) + [None]


def test_corrections_do_not_go_on_for_ever() -> None:
    attempts = Attempts(POLICY, 0.0)
    found = [attempts.corrected() for _ in range(POLICY.max_corrections + 1)]
    assert found == [True] * POLICY.max_corrections + [False]


def test_variables() -> None:
    assert retry_policy({}) == RetryPolicy()
    assert retry_policy({"AWS_MAX_ATTEMPTS": "3"}).max_attempts == 3
    both = {"AWS_MAX_ATTEMPTS": "3", "RUNAI_STREAMER_S3_MAX_RETRIES": "0"}
    assert retry_policy(both).max_attempts == 1
    for name, text in (("AWS_MAX_ATTEMPTS", "0"), ("RUNAI_STREAMER_S3_MAX_RETRIES", "x")):
        with pytest.raises(ConfigError, match=f"{name}="):
            retry_policy({name: text})
