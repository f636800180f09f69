"""Makes, attaches, punches and removes the slabs of this daemon's shards.

This module owns the slabs' names, the descriptors of slabs that clients get, and the lingering
slabs, which are unlinked but still open in clients of an earlier daemon. It never touches a slab's
pages: workers back, fill and punch blocks. Runs in the daemon's loop, except the freeing of a whole
slab, which may take long and runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import secrets
from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.layout import block_span
from streamerd.control.descriptors import OpenedSlab
from streamerd.reading.backing import Backing
from streamerd.service.views import Events, ModelView
from streamerd.settings.config import Settings
from streamerd.shm.lingering import Lingering
from streamerd.shm.slabs import (
    create_slab,
    open_readonly,
    readonly_mount,
    remove_slab,
    slab_name,
)
from streamerd.state.commands import ReleaseBlocks, ReplaceSlab
from streamerd.state.events import BlocksReleased, ShardKey
from streamerd.workers import jobs
from streamerd.workers.in_daemon.supervisor import Workers

logger = logging.getLogger(__name__)

RETAINS_READONLY_FROM: Final = 8192
"""If the daemon may have at least this many descriptors, it retains a read-only one of each slab
for clients. Opening one anew for each client costs the loop more than all other work of opening a
resident shard."""


class Slabs:
    """Makes and removes the slabs of shards.

    Args:
        settings: the instance's mounts and block size.
        instance: the instance, which is a part of all names of this daemon's slabs.
        workers: the workers, and the slabs that are lent to them.
        backings: the backings of the core's shards.
        model: tells the sizes of ranges of blocks.
        events: takes the event that blocks were released.
    """

    def __init__(
        self,
        settings: Settings,
        instance: str,
        workers: Workers,
        backings: Mapping[ShardKey, Backing],
        model: ModelView,
        events: Events,
    ) -> None:
        self._instance = instance
        self._block_bytes = settings.block_bytes
        self._workers = workers
        self._backings = backings
        self._model = model
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._readonly_mount = readonly_mount(settings.readonly_shm)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._retains_readonly = soft >= RETAINS_READONLY_FROM
        self._made = secrets.randbits(60)
        self._lingering = Lingering()

    @property
    def lingering_bytes(self) -> int:
        """Bytes of slabs that were unlinked while other processes have them open."""
        return self._lingering.size_bytes

    # --- making ---------------------------------------------------------------------------------

    def new_name(self, uri: str, identity: str) -> str:
        """A name that no slab of this daemon or of earlier daemons of its instance has had."""
        self._made += 1
        return slab_name(self._instance, uri, identity, self._made)

    def try_one(self) -> None:
        """Make and remove an empty slab, to see that slabs can be made.

        Raises:
            StreamerError: no shared memory can be had here.
        """
        name = self.new_name("", "")
        descriptor = create_slab(name, 0)
        _unlink(name, descriptor)
        os.close(descriptor)

    def create(self, shard: ShardKey, size_bytes: int) -> None:
        """Make a slab for a shard; if that fails, the shard's first fetch and its loads fail."""
        backing = self._backings[shard]
        name = self.new_name(shard.uri, shard.identity)
        try:
            self.attach(backing, name, create_slab(name, size_bytes))
        except StreamerError as error:
            logger.error("event=slab_not_created uri=%s error=%s", backing.stored.uri, error)
            backing.slab_error = error

    def attach(self, backing: Backing, name: str, descriptor: int) -> None:
        """Give a shard its slab; the descriptor for clients is opened while the slab has its name.

        Args:
            backing: the backing of the shard.
            name: the name of the slab.
            descriptor: the slab, open for reading and writing; this object closes it.
        """
        backing.slab_name, backing.slab_fd, backing.slab_error = name, descriptor, None
        backing.slab = self._workers.lending.put_slab(descriptor)
        if self._retains_readonly:
            with contextlib.suppress(OSError):  # without it, one is opened for each client
                backing.readonly_fd = open_readonly(descriptor, name, self._readonly_mount)

    def opened_for_client(self, backing: Backing) -> OpenedSlab:
        """A read-only descriptor of a shard's slab.

        Raises:
            OSError: none can be opened now.
        """
        if backing.readonly_fd >= 0:
            return OpenedSlab(backing.readonly_fd, close=False)
        opened = open_readonly(backing.slab_fd, backing.slab_name, self._readonly_mount)
        return OpenedSlab(opened, close=True)

    # --- giving back ----------------------------------------------------------------------------

    def release(self, command: ReleaseBlocks) -> None:
        """Have a worker give the memory of blocks back."""
        backing = self._backings[command.shard]
        backing.releases += 1
        start, _ = block_span(command.start, backing.stored.size_bytes, self._block_bytes)
        size_bytes = self._model.shards[command.shard].bytes_of(command.start, command.stop)
        job = jobs.Punch(self._workers.next_job(), backing.slab, start, start + size_bytes)
        self._workers.submit(job, lambda answer: self._released(command, answer))

    def _released(self, command: ReleaseBlocks, answer: jobs.Answer | None) -> None:
        if answer is None:  # the worker died before it answered, so another one is asked
            self.release(command)
            return
        if isinstance(answer, jobs.JobFailed):
            uri = self._backings[command.shard].stored.uri
            logger.error("event=blocks_not_released uri=%s error=%s", uri, answer.message)
        self._post_released(command.shard, command.start, command.stop)

    def _post_released(self, shard: ShardKey, start: int, stop: int) -> None:
        self._events.post(BlocksReleased(self._events.now_s, shard, start, stop))

    def remove(self, shard: ShardKey) -> None:
        """Unlink the slab of a shard, which has no block in it any more."""
        name, handle = _detach(self._backings[shard])
        if handle >= 0:
            for descriptor in self._workers.lending.take_back(handle):
                _unlink(name, descriptor)
                os.close(descriptor)

    def replace(self, command: ReplaceSlab) -> None:
        """Give a shard a new slab; free the old one once no worker has it open."""
        shard = command.shard
        name, handle = _detach(self._backings[shard])
        self.create(shard, command.size_bytes)

        def closed() -> None:
            descriptors = self._workers.lending.take_back(handle)
            freeing = self._loop.run_in_executor(None, self._free, name, descriptors)
            freeing.add_done_callback(lambda _done: freed())

        def freed() -> None:
            for start, stop in command.ranges:
                self._post_released(shard, start, stop)

        self._workers.broadcast(lambda job: jobs.CloseSlab(job, handle), closed)

    def _free(self, name: str, descriptors: tuple[int, ...]) -> None:
        """Unlink a slab and close its descriptors, which frees its memory. Runs in a thread."""
        for descriptor in descriptors:
            _unlink(name, descriptor)
            if not self._lingering.keep(descriptor):
                os.close(descriptor)

    def look_at_lingering(self) -> None:
        """Close lingering slabs that no other process has open any more.

        Each tick calls this, since no event tells when a client of an earlier daemon closes a slab.
        """
        self._lingering.look()

    def close(self) -> None:
        """Close the lingering slabs; other processes that have them open can still read them."""
        self._lingering.close()


def _detach(backing: Backing) -> tuple[str, int]:
    """Take a shard's slab from it; returns the slab's name and its handle."""
    if backing.readonly_fd >= 0:
        os.close(backing.readonly_fd)
        backing.readonly_fd = -1
    name, handle = backing.slab_name, backing.slab
    backing.slab_name, backing.slab, backing.slab_fd = "", -1, -1
    return name, handle


def _unlink(name: str, descriptor: int) -> None:
    """Unlink a slab if its name still means this object, and not one that others put there."""
    remove_slab(name, os.fstat(descriptor).st_ino)
