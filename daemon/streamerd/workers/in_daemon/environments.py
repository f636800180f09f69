"""The environments that clients sent with their loads: credentials, region, endpoint.

This is the only place where the daemon stores secrets: in memory, for as long as the load lives.
Nothing of it is logged, written or shown, and the repr of `Environments` does not tell it.

Python's strings cannot be overwritten: the bytes of a secret are freed with the last reference to
it, and stay in the process's memory until other data replaces them. The promise is therefore that
no reference stays. The reference here is the only one that outlives a request. It is dropped in the
turn in which the load ends; a read that is under way then has its own until it is answered. Workers
name environments by their digests, and have credentials only in readers that are open.
"""

from __future__ import annotations

from collections.abc import Container

from streamerd.state.events import LoadKey
from streamerd.workers.jobs import digest_of


class Environments:
    """The newest environment of each load. Runs in the daemon's loop."""

    def __init__(self) -> None:
        self._of: dict[LoadKey, dict[str, str]] = {}

    def put(self, load: LoadKey, environment: dict[str, str]) -> None:
        """Note the environment that came with a load."""
        self._of[load] = environment

    def of(self, load: LoadKey) -> dict[str, str]:
        """The environment of a load; empty where the load is not known."""
        return self._of.get(load, {})

    def renew(self, load: LoadKey, environment: dict[str, str]) -> bool:
        """Replace a known load's environment; returns whether it differs from the former."""
        newer = self._of[load] != environment
        self._of[load] = environment
        return newer

    def loads_with(self, environment: dict[str, str]) -> tuple[LoadKey, ...]:
        """The loads whose environment is exactly this one now."""
        return tuple(load for load, sent in self._of.items() if sent == environment)

    def keep_only(self, loads: Container[LoadKey]) -> list[str]:
        """Forget the environments of all other loads.

        Returns:
            Digests of those environments that no load has any more.
        """
        remaining = {load: sent for load, sent in self._of.items() if load in loads}
        gone = [sent for load, sent in self._of.items() if load not in remaining and sent]
        self._of = remaining
        return list({digest_of(sent): None for sent in gone if not self.loads_with(sent)})

    def __contains__(self, load: LoadKey) -> bool:
        return load in self._of

    def __len__(self) -> int:
        return len(self._of)
