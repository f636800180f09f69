"""The environments that clients sent with their loads: credentials, region, endpoint.

This is the only place where the daemon stores secrets: in memory, for as long as the load lives. No
environment is logged, written or shown, and the repr of `Environments` does not show one.

Python's strings cannot be overwritten. The bytes of a secret are freed with the last reference to
the string, and stay in the process's memory until other data replaces them. The promise is
therefore that no reference stays. The reference here is the only one that outlives a request, and
is dropped in the turn in which the load ends. A read that is under way then has a reference of its
own until it is answered. Workers are told to forget an environment (`Forget`) once no load has it
any more.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from streamerd.state.events import LoadKey
from streamerd.workers.jobs import digest_of


@dataclass(frozen=True, slots=True, repr=False)
class Sent:
    """The environment that a client sent, with its digest."""

    environment: dict[str, str]
    digest: str
    """By `jobs.digest_of`; empty for an empty environment."""


NOTHING: Final = Sent({}, "")


class Environments:
    """The newest environment of each load. Runs in the daemon's loop."""

    def __init__(self) -> None:
        self._sent: dict[LoadKey, Sent] = {}
        self._left: set[str] = set()
        """Digests of environments that some load had and has no more."""

    def put(self, load: LoadKey, environment: dict[str, str]) -> None:
        """Note the environment that came with a load."""
        self._sent[load] = Sent(environment, digest_of(environment) if environment else "")

    def sent(self, load: LoadKey) -> Sent:
        """The environment of a load with its digest; `NOTHING` for an unknown load."""
        return self._sent.get(load, NOTHING)

    def of(self, load: LoadKey) -> dict[str, str]:
        """The environment of a load; empty for an unknown load."""
        return self.sent(load).environment

    def digest(self, load: LoadKey) -> str:
        """The digest of a load's environment; empty for an empty environment or unknown load."""
        return self.sent(load).digest

    def renew(self, load: LoadKey, environment: dict[str, str]) -> bool:
        """Replace a known load's environment; returns whether the new one differs."""
        before = self._sent[load]
        newer = before.environment != environment
        if newer:
            self._left.add(before.digest)
            self.put(load, environment)
        return newer

    def loads_with(self, environment: dict[str, str]) -> tuple[LoadKey, ...]:
        """The loads that have exactly this environment now."""
        return tuple(load for load, sent in self._sent.items() if sent.environment == environment)

    def keep_only(self, loads: Container[LoadKey]) -> None:
        """Forget the environments of all other loads."""
        for load in [load for load in self._sent if load not in loads]:
            self._left.add(self._sent.pop(load).digest)

    def left(self, digest: str) -> None:
        """Note an environment that a worker may still have, although its load has ended."""
        self._left.add(digest)

    def take_gone(self) -> list[str]:
        """Digests of environments that no load has any more; each is returned only once."""
        if not self._left:
            return []
        kept = {sent.digest for sent in self._sent.values()}
        gone, self._left = self._left.difference(kept, ("",)), set()
        return sorted(gone)

    def __contains__(self, load: LoadKey) -> bool:
        return load in self._sent

    def __len__(self) -> int:
        return len(self._sent)
