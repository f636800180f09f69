"""Decides whether and when a failed request is repeated. Pure: time and chance are arguments.

Waits grow exponentially with full jitter: each is drawn evenly from zero to its bound, so that many
readers that failed together do not retry together
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UNREACHED_ATTEMPTS: Final = 4
"""The most attempts at a server that has never answered: its address is probably wrong."""


class Transient(Exception):
    """A failure that may pass by itself: a busy server, a lost connection, an answer cut off.

    A user never sees it: if it lasts, the engine raises a `SourceError` with its text.

    Args:
        reason: the failure, for the text of the error if it lasts.
        after_s: how long the server asks to wait; 0 if it does not.
        remedy: the user's remedy if the failure lasts.
        connecting: whether no connection came about at all.
    """

    def __init__(
        self,
        reason: str,
        *,
        after_s: float = 0.0,
        remedy: str = "look at the store's state, then try again",
        connecting: bool = False,
    ) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.remedy = remedy
        self.connecting = connecting


class SendAgain(Exception):
    """A refusal that told how to ask (region, place, the server's time): send again at once."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient to be with one request."""

    max_attempts: int = 10
    """The most failures in a row that brought no byte, the first included."""
    first_delay_s: float = 0.25
    max_delay_s: float = 10.0
    max_asked_delay_s: float = 30.0
    """The longest wait that a server may ask for."""
    deadline_s: float = 300.0
    """Seconds from the first attempt; no wait goes beyond it."""
    max_corrections: int = 4
    """How often a request may be sent again because its refusal told how."""


class Attempts:
    """The account of one request's attempts."""

    def __init__(self, policy: RetryPolicy, started_s: float) -> None:
        self.made = 0
        """How many attempts failed."""
        self._policy = policy
        self._started_s = started_s
        self._in_vain = 0
        self._corrections = 0

    def progressed(self) -> None:
        """Count failures anew, because some bytes came and so the server is alive."""
        self._in_vain = 0

    def corrected(self) -> bool:
        """Count a refusal that told how to ask; return whether to send once more."""
        self._corrections += 1
        return self._corrections <= self._policy.max_corrections

    def delay_s(
        self, fault: Transient, now_s: float, chance: float, *, reached: bool
    ) -> float | None:
        """Seconds to wait before the next attempt; None to give up.

        Args:
            fault: the failure.
            now_s: the time on the clock that `started_s` was taken from.
            chance: a random number, evenly from 0 to 1.
            reached: whether the server ever answered.
        """
        policy = self._policy
        self.made += 1
        self._in_vain += 1
        allowed = policy.max_attempts
        if fault.connecting and not reached:
            allowed = min(allowed, UNREACHED_ATTEMPTS)
        if self._in_vain >= allowed:
            return None
        bound = min(policy.max_delay_s, policy.first_delay_s * 2.0 ** min(self._in_vain - 1, 30))
        delay = max(chance * bound, min(fault.after_s, policy.max_asked_delay_s))
        return delay if now_s + delay - self._started_s <= policy.deadline_s else None

    def summary(self, now_s: float) -> str:
        """How many attempts failed, in what time, and how many of them since bytes last came.

        Failures since then are told apart because bytes that came in between allow more attempts
        than the policy's bound, so that the whole count alone would not explain the error.
        """
        text = f"{self.made} attempts in {now_s - self._started_s:.1f} s"
        if self._in_vain == self.made:
            return text
        return f"{text}, {self._in_vain} of them since bytes last came"
