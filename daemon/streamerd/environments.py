"""What each load's client sent along for reading: credentials, region, endpoint.

The only place where the daemon keeps secrets: in memory, as long as the load lives. Nothing here is
logged, written or shown; `Environments` has no repr that tells more than that it is one.
"""

from __future__ import annotations

from collections.abc import Container

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

    def keep(self, loads: Container[LoadKey]) -> None:
        """Forget the environments of all other loads."""
        self._of = {load: lent for load, lent in self._of.items() if load in loads}

    def __contains__(self, load: LoadKey) -> bool:
        return load in self._of

    def __len__(self) -> int:
        return len(self._of)
