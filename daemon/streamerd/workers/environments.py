"""What each load's client sent along for reading: credentials, region, endpoint.

The only place where the daemon keeps secrets: in memory, as long as the load lives. Nothing here is
logged, written or shown; `Environments` has no repr that tells more than that it is one.

What is dropped is not overwritten. Python's strings cannot be: the decoder makes them, their bytes
are freed with the last reference and lie in the process's memory until something else is put there.
So what is promised is that no reference stays. This one is the only one that outlives a request; it
goes in the turn in which the load ends, and a read under way by then holds its own until it is
answered. Workers know environments by digests, and keep credentials in readers that are open.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from hashlib import blake2b

from streamerd.state.events import LoadKey


class Environments:
    """The newest environment of each load. Runs in the daemon's loop."""

    def __init__(self) -> None:
        self._of: dict[LoadKey, dict[str, str]] = {}

    def lend(self, load: LoadKey, environment: dict[str, str]) -> None:
        """Note what came with a load."""
        self._of[load] = environment

    def of(self, load: LoadKey) -> dict[str, str]:
        """What to read with for a load; nothing where it is not known."""
        return self._of.get(load, {})

    def renew(self, load: LoadKey, environment: dict[str, str]) -> bool:
        """Take a known load's environment anew; whether it differs from the last."""
        newer = self._of[load] != environment
        self._of[load] = environment
        return newer

    def lending(self, environment: dict[str, str]) -> tuple[LoadKey, ...]:
        """The loads whose environment is exactly this one now."""
        return tuple(load for load, lent in self._of.items() if lent == environment)

    def keep(self, loads: Container[LoadKey]) -> list[str]:
        """Forget the environments of all other loads; the digests of those that nobody has now."""
        kept = {load: lent for load, lent in self._of.items() if load in loads}
        gone = [lent for load, lent in self._of.items() if load not in kept and lent]
        self._of = kept
        return list({digest_of(lent): None for lent in gone if not self.lending(lent)})

    def __contains__(self, load: LoadKey) -> bool:
        return load in self._of

    def __len__(self) -> int:
        return len(self._of)


def digest_of(environment: Mapping[str, str]) -> str:
    """What stands for an environment where no secret is to be kept."""
    text = "\0".join(f"{name}={value}" for name, value in sorted(environment.items()))
    return blake2b(text.encode(), digest_size=16).hexdigest()
