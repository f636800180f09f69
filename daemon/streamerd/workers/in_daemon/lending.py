"""Descriptors of slabs and of files to read, as the daemon lends them to its workers.

This module owns the handles by which jobs name slabs and files. It also knows which of them each
worker has borrowed, and which environments each worker was sent. Runs in the daemon's loop. It only
passes descriptors on. It never examines, reads or closes one, since even closing a file whose
server is dead may never return.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from streamer_client.storage.contract import StoredShard
from streamerd.workers.jobs import (
    AnyJob,
    Drop,
    DropEnvironment,
    Fetch,
    Forget,
    TakeEnvironment,
    TakeSlab,
    TakeSource,
)
from streamerd.workers.lanes import handles_of

OPEN_SLABS: Final = 64
"""Number of slabs that a worker borrows at the same time."""
KEPT_ENVIRONMENTS: Final = 16
"""Number of environments that a worker keeps at the same time."""
OPEN_SOURCES: Final = 64
"""Number of files that a worker borrows at the same time, each with one or two descriptors."""


class Borrower(Protocol):
    """A worker, as `Lending` sees it: it takes messages with descriptors, in order."""

    def send(self, message: msgspec.Struct, fds: tuple[int, ...] = ()) -> None: ...

    def withdraw(self, fds: tuple[int, ...]) -> None:
        """Take back messages that were not sent yet and would carry one of `fds`."""
        ...


@dataclass(frozen=True, slots=True)
class _Lent:
    fds: tuple[int, ...]
    take: TakeSlab | TakeSource


@dataclass(slots=True)
class _Borrowed:
    """The things that one worker has, by handle or digest, the least recently used first."""

    slabs: OrderedDict[int, None] = field(default_factory=OrderedDict)
    sources: OrderedDict[int, None] = field(default_factory=OrderedDict)
    environments: OrderedDict[str, None] = field(default_factory=OrderedDict)


class Lending:
    """The handles, and the workers that have borrowed them."""

    def __init__(self) -> None:
        self._lent: dict[int, _Lent] = {}
        self._held: dict[Borrower, _Borrowed] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._lent)

    def put_slab(self, fd: int) -> int:
        """A handle, never used before, for a slab opened for reading and writing.

        `Lending` owns the descriptor until `take_back` is called.
        """
        handle = next(self._numbers)
        self._lent[handle] = _Lent((fd,), TakeSlab(handle))
        return handle

    def put_source(self, stored: StoredShard, fds: tuple[int, ...]) -> int:
        """A handle, never used before, for a file that a worker has examined.

        Args:
            stored: name, size and identity of the file.
            fds: the file opened for reading and, if possible, once more with O_DIRECT.
        """
        handle = next(self._numbers)
        self._lent[handle] = _Lent(fds, TakeSource(handle, stored))
        return handle

    def take_back(self, handle: int) -> tuple[int, ...]:
        """End a handle: returns its descriptors to the caller; workers close their copies.

        Jobs that workers have received already end normally; later ones fail. The answers to
        `CloseSlab` tell when no worker holds a slab any more. For a number that is no handle, or no
        longer one, the result is empty.
        """
        lent = self._lent.pop(handle, None)
        if lent is None:
            return ()
        for worker, held in self._held.items():
            worker.withdraw(lent.fds)
            if handle in held.slabs or handle in held.sources:
                held.slabs.pop(handle, None)
                held.sources.pop(handle, None)
                worker.send(Drop(handle))
        return lent.fds

    # --- for the workers --------------------------------------------------------------------------

    def joined(self, worker: Borrower) -> None:
        """Note that a worker started; it has borrowed nothing yet."""
        self._held[worker] = _Borrowed()

    def left(self, worker: Borrower) -> None:
        """Forget a worker that ended, and all that it had borrowed. Idempotent."""
        self._held.pop(worker, None)

    def supply(self, worker: Borrower, job: AnyJob) -> AnyJob:
        """Send a worker the slab, source and environment of a job, if it does not have them yet.

        For a handle that was taken back nothing is sent; the job then fails in the worker.

        Returns:
            The job to send: without its environment if the worker has that already.
        """
        held = self._held[worker]
        slab, source = handles_of(job)
        if slab is not None:
            self._supply(worker, held.slabs, slab, OPEN_SLABS)
        if source is not None:
            self._supply(worker, held.sources, source, OPEN_SOURCES)
        match job:
            case Forget(digest=digest):
                held.environments.pop(digest, None)
            case Fetch(digest=digest) if digest:
                self._supply_environment(worker, held.environments, digest, job.environment)
                return msgspec.structs.replace(job, environment={})
        return job

    def _supply_environment(
        self,
        worker: Borrower,
        held: OrderedDict[str, None],
        digest: str,
        environment: dict[str, str],
    ) -> None:
        if digest in held:
            held.move_to_end(digest)
            return
        held[digest] = None
        if len(held) > KEPT_ENVIRONMENTS:
            oldest, _ = held.popitem(last=False)
            worker.send(DropEnvironment(oldest))
        worker.send(TakeEnvironment(digest, environment))

    def _supply(
        self, worker: Borrower, held: OrderedDict[int, None], handle: int, most: int
    ) -> None:
        if handle in held:
            held.move_to_end(handle)
            return
        lent = self._lent.get(handle)
        if lent is None:
            return
        held[handle] = None
        if len(held) > most:
            oldest, _ = held.popitem(last=False)
            worker.send(Drop(oldest))
        worker.send(lent.take, lent.fds)
