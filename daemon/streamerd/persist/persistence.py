"""Keeps the cache over restarts: adopts slabs at start, writes sidecars while the daemon runs.

This module owns the order of these steps, and decides what stays in shared memory at the end.
`adoption.py` decides which slabs are adopted, `sidecar_writer.py` what is written down. Runs in the
daemon's loop, except `adopt`, which runs in a thread before the daemon serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from streamer_client.storage.contract import StoredShard
from streamerd.persist.adoption import AdoptedSlab, adopt_slabs
from streamerd.persist.sidecar_writer import SidecarWriter
from streamerd.reading.backing import Backing, Name
from streamerd.reading.checksums import Checksums
from streamerd.reading.editions import Editions, edition_key
from streamerd.service.shards import Shards
from streamerd.service.slabs import Slabs
from streamerd.service.views import Decisions, ModelView
from streamerd.settings.config import Settings
from streamerd.shm.sidecars import Sidecar, SidecarFolder
from streamerd.shm.slabs import instance_slabs, remove_slab
from streamerd.state import events
from streamerd.state.events import ShardKey
from streamerd.state.lifecycle import BlockState

logger = logging.getLogger(__name__)

FLUSH_S: Final = 0.5
"""Seconds between two writings of changed sidecars."""


class Persistence:
    """Adopts the slabs of one instance at start, and leaves them to the next daemon at the end.

    Args:
        settings: socket, block size and memory limit.
        instance: the instance, which is a part of the names of this daemon's slabs.
        model: the shards as the core has them.
        decisions: is told of adopted shards.
        shards: gets the adopted shards.
        slabs: gets the adopted slabs.
        editions: continues the editions of the adopted shards.
    """

    def __init__(
        self,
        settings: Settings,
        instance: str,
        model: ModelView,
        decisions: Decisions,
        shards: Shards,
        slabs: Slabs,
        editions: Editions,
    ) -> None:
        self._settings = settings
        self._instance = instance
        self._model = model
        self._decisions = decisions
        self._shards = shards
        self._slabs = slabs
        self._editions = editions
        self._folder = SidecarFolder(settings.socket)
        self._writer = SidecarWriter(self._folder, model, shards.backings)
        self._started_s = decisions.now_s
        self._adopted: list[AdoptedSlab] = []
        self._timer: asyncio.TimerHandle | None = None

    # --- start ----------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Adopt the slabs of an earlier daemon, remove the rest. Takes seconds, so in a thread.

        Raises:
            ConfigError: there is no shared memory, or sidecars cannot be written here.
        """
        self._folder.make()
        self._adopted = adopt_slabs(
            self._folder,
            self._instance,
            self._settings.memory_limit_bytes,
            self._settings.block_bytes,
            lambda sidecar: self._slabs.new_name(sidecar.uri, sidecar.identity),
        )

    def enter_adopted(self) -> None:
        """Make the adopted slabs part of the cache, once workers run and before any client."""
        self._decisions.decide(*(self._enter(adopted) for adopted in self._adopted))
        for adopted in self._adopted:
            self._warn_if_unpinned(adopted.sidecar)
        self._editions.note(self._model.shards)
        self._adopted.clear()
        self._flush_again()

    def _enter(self, adopted: AdoptedSlab) -> events.ShardAdopted:
        sidecar, now_s = adopted.sidecar, self._decisions.now_s
        key = _key_of(sidecar)
        backing = Backing(
            StoredShard(sidecar.uri, sidecar.size_bytes, sidecar.identity),
            Checksums.unpacked(sidecar.checksums),
            ctime_ns=sidecar.ctime_ns,
            names=dict.fromkeys(Name(one.uid, one.world, one.text) for one in sidecar.labels),
            pinned_by=set(sidecar.pinned_by),
        )
        self._slabs.attach(self._shards.add(key, backing), sidecar.slab, adopted.fd)
        logger.info(
            "event=slab_adopted uri=%s blocks=%d proven=%s in_use=%s pinned=%s",
            sidecar.uri, sum(stop - start for start, stop in adopted.resident), adopted.proven,
            adopted.in_use, sidecar.pinned,
        )  # fmt: skip
        return events.ShardAdopted(
            now_s,
            key,
            sidecar.size_bytes,
            adopted.resident,
            adopted.proven,
            adopted.in_use,
            sidecar.pinned,
            min(sidecar.last_used_s, now_s),
            remote=sidecar.remote,
        )

    def _warn_if_unpinned(self, sidecar: Sidecar) -> None:
        shard = self._model.shards.get(_key_of(sidecar))
        if sidecar.pinned and not (shard and shard.pinned):
            logger.warning(
                "event=not_pinned_any_more uri=%s reason=%r",
                sidecar.uri, "no room can be set aside within memory_limit",
            )  # fmt: skip

    # --- while it runs --------------------------------------------------------------------------

    def _flush_again(self) -> None:
        decisions = self._decisions
        self._writer.keep_up(decisions.changes, decisions.now_s, self._started_s)
        self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_again)

    # --- end ------------------------------------------------------------------------------------

    def leave(self, *, persist: bool, sound: bool) -> None:
        """Leave the slabs to the next daemon, or remove them. The workers must have ended.

        Args:
            persist: whether to leave them.
            sound: whether the daemon's state is known to be right; if not, the next daemon compares
                the checksum of every block.
        """
        if self._timer is None:
            return  # this daemon never served, so adopted slabs are as they were
        self._timer.cancel()
        if not persist:
            clean(self._settings.socket, self._instance)
            return
        shards = self._model.shards.values()
        if not sound or not self._writer.flush(self._decisions.now_s, exact=True):
            return
        for slab in instance_slabs(self._instance):
            if not self._writer.has(slab):
                remove_slab(slab)
        if not any(BlockState.UNPROVEN in shard.states for shard in shards):
            with contextlib.suppress(OSError):  # `SidecarWriter` has logged why
                self._folder.mark()
        resident_bytes = sum(shard.resident_bytes for shard in shards)
        logger.info("event=persisted slabs=%d bytes=%d", len(self._writer), resident_bytes)


def clean(socket_path: str, instance: str) -> int:
    """Remove all slabs and sidecars of an instance whose daemon does not run.

    Returns:
        How many slabs were removed.
    """
    slabs = instance_slabs(instance)
    for slab in slabs:
        remove_slab(slab)
    SidecarFolder(socket_path).clear()
    return len(slabs)


def _key_of(sidecar: Sidecar) -> ShardKey:
    if sidecar.remote:
        return ShardKey(sidecar.uri, sidecar.identity)
    return edition_key(sidecar.identity, sidecar.edition)
