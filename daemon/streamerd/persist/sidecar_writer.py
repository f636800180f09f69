"""Writes the sidecars, so that the next daemon can adopt the slabs.

This module decides when a shard's sidecar is written and what it says. `shm/sidecars.py` owns the
form of sidecars, and explains why a kill at any moment is safe. Runs in the daemon's loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamerd.reading.backing import Backing, Name
from streamerd.reading.editions import edition_of
from streamerd.service.views import IN_SLAB, ModelView, ShardView
from streamerd.shm.sidecars import VERSION, Label, Sidecar, SidecarFolder
from streamerd.state.events import ShardKey

logger = logging.getLogger(__name__)

LAST_USE_S: Final = 60.0
"""Seconds by which a sidecar's time of last use may be out of date, since writing hundreds of
sidecars at each open would hold up the loop."""
LOOK_S: Final = 10.0
"""Seconds after which shards are compared with their sidecars although the core decided nothing:
names, the owners of pins and a file's ctime may change without it."""
_FLAGS: Final = bytes(int(state in IN_SLAB) for state in range(256))
"""For each state of a block, the byte that a sidecar has for a block in that state."""

_Written = tuple[bytes, bool, float, int, tuple[Name, ...], tuple[int, ...]]
"""The parts of a sidecar that may change: resident blocks, pinned, last use, ctime, names, and the
users who pinned."""


class SidecarWriter:
    """Writes sidecars, and remembers what each of them says.

    Args:
        folder: where the sidecars are.
        model: the shards as the core has them.
        backings: the slab, checksums and names of each shard.
    """

    def __init__(
        self, folder: SidecarFolder, model: ModelView, backings: Mapping[ShardKey, Backing]
    ) -> None:
        self._folder = folder
        self._model = model
        self._backings = backings
        self._written: dict[str, _Written] = {}
        """The contents of the sidecar of each slab, by the name of the slab."""
        self._failing = False
        """Whether the last sidecar could not be written. The log tells only the first such
        failure."""
        self._seen_changes = -1
        """The core's count of changes when all sidecars were last as they should be; -1 if not."""
        self._look_s = 0.0
        """When shards are compared with their sidecars in any case."""

    def has(self, slab: str) -> bool:
        """Whether a slab has a sidecar."""
        return slab in self._written

    def __len__(self) -> int:
        return len(self._written)

    def keep_up(self, changes: int, now_s: float, leased_s: float) -> None:
        """Write the sidecars that have changed, unless nothing happened since the last time.

        Comparing the 1,000 shards of an idle daemon twice a second took 1 % of a core.
        """
        if changes != self._seen_changes or now_s >= self._look_s:
            self._seen_changes = changes if self.flush(leased_s) else -1
            self._look_s = now_s + LOOK_S

    def flush(self, leased_s: float, *, exact: bool = False) -> bool:
        """Write the sidecars that have changed. Returns whether all of them could be written.

        Args:
            leased_s: the time of last use to write for leased shards, unless their own is later.
            exact: write also where only the time of last use has changed a little.
        """
        current: dict[str, _Written] = {}
        failed: set[str] = set()
        for key, shard in self._model.shards.items():
            backing = self._backings[key]
            resident = bytes(shard.states).translate(_FLAGS)
            if not backing.slab_name or 1 not in resident or not backing.stored.validated:
                continue
            last_used_s = max(shard.last_used_s, leased_s) if shard.loads else shard.last_used_s
            known = backing.ctime_ns, tuple(backing.names), tuple(sorted(backing.pinned_by))
            says = (resident, shard.pinned, last_used_s, *known)
            written = self._written.get(backing.slab_name)
            if written is not None and _is_as_good(written, says, exact=exact):
                current[backing.slab_name] = written
            elif self._write(shard, backing, says):
                current[backing.slab_name] = says
            else:
                failed.add(backing.slab_name)
        # A sidecar that could not be replaced stays: an old one is better than none.
        for slab in self._written.keys() - current.keys() - failed:
            self._folder.remove(slab)
        # If one could not be written, somebody may have removed the whole folder: write all again.
        self._written = {} if failed else current
        return not failed

    def _write(self, shard: ShardView, backing: Backing, says: _Written) -> bool:
        try:
            self._folder.write(_sidecar(shard, backing, says))
        except OSError as error:
            if not self._failing:
                logger.warning(
                    "event=sidecar_not_written folder=%s error=%s", self._folder.path, error
                )
            self._failing = True
            with contextlib.suppress(ConfigError):
                self._folder.make()
            return False
        self._failing = False
        return True


def _sidecar(shard: ShardView, backing: Backing, says: _Written) -> Sidecar:
    resident, pinned, last_used_s, ctime_ns, names, pinned_by = says
    stored, (_, edition) = backing.stored, edition_of(shard.key)
    return Sidecar(
        VERSION,
        stored.uri,
        stored.identity,
        shard.size_bytes,
        shard.block_bytes,
        backing.slab_name,
        os.fstat(backing.slab_fd).st_ino,
        resident,
        backing.checksums.packed(),
        pinned,
        last_used_s,
        edition=edition,
        ctime_ns=ctime_ns,
        labels=tuple(Label(*name) for name in names),
        pinned_by=pinned_by,
        remote=shard.remote,
    )


def _is_as_good(written: _Written, says: _Written, *, exact: bool) -> bool:
    """Whether a sidecar need not be written again.

    Times of last use only say in which order shards are adopted and evicted.
    """
    if written == says:
        return True
    same = written[:2] + written[3:] == says[:2] + says[3:]
    return same and not exact and abs(says[2] - written[2]) < LAST_USE_S
