"""Keeps the cache over the daemon's end: writes down what is in memory, and takes it over at start.

Owns when sidecars are written and what they say; `shm/sidecars.py` owns their form and why a kill
at any moment is safe, `shm/legacy.py` what is believed of them. Runs in the daemon's loop, except
`inherit`, which runs in a thread before anything is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.contract import StoredShard
from streamerd.persist.legacy import Inherited, inherit
from streamerd.reading.backing import Backing, Name
from streamerd.reading.checksums import Checksums
from streamerd.reading.editions import edition_key, edition_of
from streamerd.service import Service
from streamerd.shm.sidecars import VERSION, Label, Sidecar, SidecarFolder
from streamerd.shm.slabs import instance_slabs, remove_slab
from streamerd.state import events
from streamerd.state.events import ShardKey
from streamerd.state.lifecycle import BlockState
from streamerd.state.shard import Shard

logger = logging.getLogger(__name__)

FLUSH_S: Final = 0.5
"""How old a sidecar may be."""
LAST_USE_S: Final = 60.0
"""How old its time of last use may be: writing hundreds at each open would hold the loop up."""

_IN_SLAB: Final = (BlockState.RESIDENT, BlockState.UNPROVEN)
_FLAGS: Final = bytes(int(state in _IN_SLAB) for state in range(256))

_Written = tuple[bytes, bool, float, int, tuple[Name, ...], tuple[int, ...]]
"""What a sidecar says that may change: resident blocks, pinned, last use, ctime, names, who
pinned."""


class Keeper:
    """What remains of one instance's slabs."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._folder = SidecarFolder(service.settings.socket)
        self._written: dict[str, _Written] = {}
        self._inherited: list[Inherited] = []
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False

    # --- start ----------------------------------------------------------------------------------

    def inherit(self) -> None:
        """Take over what an earlier daemon left, remove the rest. May take seconds: in a thread.

        Raises:
            ConfigError: there is no shared memory, or sidecars cannot be written here.
        """
        service, settings = self._service, self._service.settings
        self._folder.make()
        self._inherited = inherit(
            self._folder,
            service.instance,
            settings.memory_limit_bytes,
            settings.block_bytes,
            lambda sidecar: service.new_slab_name(sidecar.uri, sidecar.identity),
        )

    def adopt(self) -> None:
        """Make what was taken over part of the cache; workers run, and nobody is served yet."""
        for taken in self._inherited:
            self._adopt(taken)
        self._service.turn()
        for taken in self._inherited:
            self._warn_if_let_go(taken.sidecar)
        self._service.editions.note(self._service.model.shards)
        self._inherited.clear()
        self._flush_again()

    def _adopt(self, taken: Inherited) -> None:
        service, sidecar = self._service, taken.sidecar
        key = _key_of(sidecar)
        backing = service.backings[key] = Backing(
            StoredShard(sidecar.uri, sidecar.size_bytes, sidecar.identity),
            Checksums.unpacked(sidecar.checksums),
            ctime_ns=sidecar.ctime_ns,
            names=dict.fromkeys(Name(one.uid, one.world, one.text) for one in sidecar.labels),
            pinned_by=set(sidecar.pinned_by),
        )
        service.attach_slab(backing, sidecar.slab, taken.fd)
        event = events.ShardAdopted(
            service.now_s,
            key,
            sidecar.size_bytes,
            taken.resident,
            taken.proven,
            taken.in_use,
            sidecar.pinned,
            min(sidecar.last_used_s, service.now_s),
            remote=sidecar.remote,
        )
        service.post(event)
        logger.info(
            "slab adopted uri=%s blocks=%d proven=%s in_use=%s pinned=%s",
            sidecar.uri, sum(stop - start for start, stop in taken.resident), taken.proven,
            taken.in_use, sidecar.pinned,
        )  # fmt: skip

    def _warn_if_let_go(self, sidecar: Sidecar) -> None:
        shard = self._service.model.shards.get(_key_of(sidecar))
        if sidecar.pinned and not (shard and shard.pinned):
            logger.warning(
                "not pinned any more: no room can be set aside within memory_limit uri=%s",
                sidecar.uri,
            )

    # --- while it runs --------------------------------------------------------------------------

    def _flush_again(self) -> None:
        self._flush(self._service.started_s)
        self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_again)

    def _flush(self, leased_s: float, *, exact: bool = False) -> bool:
        """Write what has changed; whether all of it could be written.

        Args:
            leased_s: the time of last use of what is leased now, at least.
            exact: also where only the time of last use has changed a little.
        """
        current: dict[str, _Written] = {}
        ok = True
        for key, shard in self._service.model.shards.items():
            backing = self._service.backings[key]
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
                ok = False
        for slab in self._written.keys() - current.keys():
            self._folder.remove(slab)
        # Somebody may have removed the folder, and all of it with it: next time all is written.
        self._written = current if ok else {}
        return ok

    def _write(self, shard: Shard, backing: Backing, says: _Written) -> bool:
        resident, pinned, last_used_s, ctime_ns, names, pinned_by = says
        stored, (_, edition) = backing.stored, edition_of(shard.key)
        try:
            self._folder.write(
                Sidecar(
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
            )
        except OSError as error:
            if not self._failing:
                logger.warning("sidecar not written folder=%s error=%s", self._folder.path, error)
            self._failing = True
            with contextlib.suppress(ConfigError):
                self._folder.make()
            return False
        self._failing = False
        return True

    # --- end ------------------------------------------------------------------------------------

    def leave(self, *, keep: bool, sound: bool) -> None:
        """The workers have ended: keep what is in memory for the next daemon, or remove it.

        Args:
            keep: keep it.
            sound: the account is true; else the next daemon shall prove every block.
        """
        if self._timer is None:
            return  # it never served: what was taken over lies as it lay
        self._timer.cancel()
        if not keep:
            clean(self._service.settings.socket, self._service.instance)
            return
        shards = self._service.model.shards.values()
        if not sound or not self._flush(self._service.now_s, exact=True):
            return
        for slab in instance_slabs(self._service.instance):
            if slab not in self._written:
                remove_slab(slab)
        if not any(BlockState.UNPROVEN in shard.states for shard in shards):
            with contextlib.suppress(OSError):  # told by `_flush`, if there was anything to keep
                self._folder.mark()
        kept_bytes = sum(shard.resident_bytes for shard in shards)
        logger.info("kept for the next daemon slabs=%d bytes=%d", len(self._written), kept_bytes)


def clean(socket_path: str, instance: str) -> int:
    """Remove every slab and sidecar of an instance that does not run; how many slabs there were."""
    slabs = instance_slabs(instance)
    for slab in slabs:
        remove_slab(slab)
    SidecarFolder(socket_path).clear()
    return len(slabs)


def _is_as_good(written: _Written, says: _Written, *, exact: bool) -> bool:
    """Whether a sidecar need not be written again: times of last use serve only to put in order."""
    if written == says:
        return True
    same = written[:2] + written[3:] == says[:2] + says[3:]
    return same and not exact and abs(says[2] - written[2]) < LAST_USE_S


def _key_of(sidecar: Sidecar) -> ShardKey:
    if sidecar.remote:
        return ShardKey(sidecar.uri, sidecar.identity)
    return edition_key(sidecar.identity, sidecar.edition)
