"""Carries jobs out: the part of a worker that touches files and slabs.

Runs in the threads of a fetch worker. A thread may be stuck in a read for ever. Once its job was
given up, the thread must write nothing more into a slab, even if the read returns later. A source
that may hang is therefore read into the thread's own buffer. The buffer is written into the slab
under the job's lock, which is also taken to give the job up. Only reads that always end, or have a
timeout of their own, go straight into a slab.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

import msgspec
import xxhash

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.printable import without_secrets
from streamer_client.storage.contract import Reader, StoredShard
from streamer_client.storage.registry import storage_for
from streamer_client.storage.remembered import LISTINGS, place_of
from streamerd.log_lines import with_lines
from streamerd.memory.room import SHM_MOUNT
from streamerd.settings.fleet import Terms
from streamerd.shm.slab_file import NoSpace, SlabFile
from streamerd.workers.in_worker.assignment import Assignment, GivenUp
from streamerd.workers.in_worker.borrowed import BorrowedSlab, BorrowedSource, Borrowings, Use
from streamerd.workers.in_worker.examining import compare, examine
from streamerd.workers.in_worker.listing import look_at, resolve
from streamerd.workers.in_worker.readers import Readers
from streamerd.workers.jobs import (
    FROM_STORE,
    Answer,
    AnyJob,
    Back,
    Checksum,
    Checksummed,
    CloseSlab,
    Compare,
    Examine,
    Fetch,
    Fetched,
    Finished,
    Forget,
    JobFailed,
    LookAt,
    Punch,
    Reread,
    Resolve,
)
from streamerd.workers.lanes import handles_of
from streamerd.workers.threads import Closer

if TYPE_CHECKING:
    from streamerd.fleet.fetch.peers import Peers

logger = logging.getLogger(__name__)

NOT_TOLD: Final = "not_told"
"""The reason for reading a block from the store if the worker does not know the fleet yet."""
DEFECT: Final = "defect"
"""The reason for reading a block from the store after an unforeseen error in the code for peers."""
OPEN_READERS: Final = 64
"""Number of objects that a worker has open at the same time."""
CHECKSUM_PIECE_BYTES: Final = 256 << 10
"""The checksum of a slab's range is taken in pieces of this size, which fit the processor's
cache."""


class Work:
    """A job with the slab and the source that it uses, looked up when the job was received."""

    def __init__(
        self,
        assignment: Assignment,
        slab: Use[BorrowedSlab] | None,
        source: Use[BorrowedSource] | None,
    ) -> None:
        self.assignment = assignment
        self.job = assignment.job
        self._slab = slab
        self._source = source

    @property
    def slab(self) -> BorrowedSlab:
        if self._slab is None:
            raise StreamerError(f"{type(self.job).__name__} names no slab")
        return self._slab.thing

    @property
    def source(self) -> BorrowedSource | None:
        return None if self._source is None else self._source.thing

    def let_slab_go(self) -> None:
        """Release the slab of a job that was given up, since the job's thread may never end."""
        if self._slab is not None:
            self._slab.release()

    def release(self) -> None:
        """Release the slab and the source when the job is over. Idempotent."""
        self.let_slab_go()
        if self._source is not None:
            self._source.release()


class Carrier:
    """Turns a job into its answer. Thread-safe.

    Args:
        mapped: whether to fill slabs through mappings; see `shm/slab_file.py`.
    """

    def __init__(self, *, mapped: bool = False) -> None:
        self._mapped = mapped
        self.closer = Closer()
        # Slabs are closed in the calling thread, so that none is mapped when `CloseSlab` is
        # answered. Closing a file may hang.
        self.slabs: Borrowings[BorrowedSlab] = Borrowings("slab", lambda close: close())
        self.sources: Borrowings[BorrowedSource] = Borrowings("source", self.closer.call)
        self.environments: dict[str, dict[str, str]] = {}
        """The environments by digest. Only the receiving thread uses this."""
        self._readers = Readers(OPEN_READERS)
        self._own = threading.local()
        self._peers: Peers | None = None

    # --- in the receiving thread ------------------------------------------------------------------

    def take_on(self, assignment: Assignment) -> Work:
        """Look up a job's slab and source, which the job may use even if they are dropped.

        Raises:
            StreamerError: this worker has not borrowed the slab or source that the job names.
        """
        assignment.job = self._whole(assignment.job)
        slab, source = handles_of(assignment.job)
        with contextlib.ExitStack() as undo:
            held_slab = None if slab is None else self.slabs.use(slab)
            if held_slab is not None:
                undo.callback(held_slab.release)
            held_source = None if source is None else self.sources.use(source)
            undo.pop_all()
        return Work(assignment, held_slab, held_source)

    def _whole(self, job: AnyJob) -> AnyJob:
        """The job, completed with the environment whose digest it names."""
        match job:
            case Forget(digest=digest):
                self.environments.pop(digest, None)
            case Fetch(digest=digest) if digest and not job.environment:
                environment = self.environments.get(digest)
                if environment is None:
                    raise StreamerError("the environment that this job names was not sent to it")
                return msgspec.structs.replace(job, environment=environment)
        return job

    def drop(self, handle: int) -> None:
        """Close the slab or file of this handle as soon as no job uses it."""
        self.sources.drop(handle)
        self.slabs.drop(handle)

    def know_fleet(self, terms: Terms, me: str, members: frozenset[str]) -> None:
        """Note the present members of the fleet."""
        if self._peers is None:
            # The code for fleets is loaded only if there is a fleet.
            from streamerd.fleet.fetch.peers import Peers  # noqa: PLC0415

            try:
                self._peers = Peers(terms)
            except StreamerError as error:
                logger.error("event=fleet_unusable error=%s effect=%r", error, "reads the store")
                return
        self._peers.know(me, members)

    # --- in a lane's thread -----------------------------------------------------------------------

    def carry_out(self, work: Work) -> Answer:
        """Carry the job out, and release its slab and source.

        Raises:
            GivenUp: the job was given up meanwhile.
        """
        try:
            return self._answered(work)
        finally:
            work.release()
            self.closer.close(work.assignment.fds)

    def _answered(self, work: Work) -> Answer:
        job = work.job
        try:
            return self._carry_out(work)
        except GivenUp:
            raise
        except NoSpace as error:
            remedy = "free memory there, enlarge it or lower memory_limit"
            text = f"{SHM_MOUNT} is full ({error}): {remedy}"
            return JobFailed(job.job, "memory-limit", text, no_space=True)
        except StreamerError as error:
            return JobFailed(job.job, error.code, without_secrets(str(error), _environment(job)))
        except Exception as error:  # noqa: BLE001  logged below, without secrets
            # The error text of a library may contain its arguments, and a traceback ends with it.
            text = without_secrets(traceback.format_exc(), _environment(job))
            kind = type(job).__name__
            logger.error("event=job_failed kind=%s job=%d", kind, job.job, extra=with_lines(text))
            text = without_secrets(f"{type(error).__name__}: {error}", _environment(job))
            return JobFailed(job.job, StreamerError.code, text)

    def _carry_out(self, work: Work) -> Answer:
        match work.job:
            case Fetch() as job:
                began_s = time.monotonic()
                return _signed(self._fetch(work, job), began_s)
            case Resolve() as job:
                return resolve(job)
            case LookAt() as job:
                return look_at(job)
            case Examine() as job:
                return examine(job, work.assignment.fds)
            case Compare() as job:
                return compare(job, work.assignment.fds)
            case Back() as job:
                work.assignment.hold_on()
                work.slab.file(mapped=self._mapped).reserve(job.start, job.stop)
                return Finished(job.job)
            case Punch() as job:
                work.assignment.hold_on()
                work.slab.file(mapped=self._mapped).punch(job.start, job.stop)
                return Finished(job.job)
            case Reread() as job:
                return self._reread(work, job)
            case Checksum() as job:
                return self._checksum(work, job)
            case CloseSlab() as job:
                self.slabs.drop(job.slab)
                self._readers.drop(job.slab)
                return Finished(job.job)
            case Forget() as job:
                self._readers.forget(job.digest)
                return Finished(job.job)
            case _ as unknown:
                assert_never(unknown)

    def _fetch(self, work: Work, job: Fetch) -> Fetched | JobFailed:
        source = work.source
        if source is None:
            return (self._fetch_from_peers if job.peers else self._fetch_object)(work, job)
        reader, steady = source.reader(), source.steady()
        if steady:
            work.assignment.hold_on()
        with work.assignment.writing():
            slab = work.slab.file(mapped=self._mapped)
            if not job.backed:
                slab.reserve(job.start, job.stop)
        fill = partial(self._fill if steady else self._fill_aside, work, reader, slab, job)
        (checksum, device_bytes), ctime_ns = reader.settled(fill)
        return Fetched(job.job, checksum, device_bytes, ctime_ns=ctime_ns)

    def _fetch_from_peers(self, work: Work, job: Fetch) -> Fetched | JobFailed:
        if self._peers is None:
            return JobFailed(job.job, FROM_STORE, NOT_TOLD)
        work.assignment.hold_on()
        slab = work.slab.file(mapped=True)
        if not job.backed:
            slab.reserve(job.start, job.stop)
        try:
            reader = self._peers.reader(job.shard)
            checksum, device_bytes = self._fill(work, reader, slab, job)
        except StreamerError as error:
            return JobFailed(job.job, FROM_STORE, getattr(error, "reason", error.code))
        except Exception:  # noqa: BLE001  whatever a peer caused, the store has the bytes as well
            told = with_lines(traceback.format_exc())
            logger.error("event=peer_read_failed job=%d", job.job, extra=told)
            return JobFailed(job.job, FROM_STORE, DEFECT)
        return Fetched(job.job, checksum, device_bytes)

    def _fetch_object(self, work: Work, job: Fetch) -> Fetched | JobFailed:
        # The body of an object goes straight into the mapping. A block is one request, which is too
        # large for a buffer in the processor's cache. Requests have their own timeouts.
        with self._readers.borrow(job.slab, job.shard, job.environment, job.digest) as shard:
            work.assignment.hold_on()
            slab = work.slab.file(mapped=True)
            if not job.backed:
                slab.reserve(job.start, job.stop)
            try:
                checksum, device_bytes = self._fill(work, shard.reader, slab, job)
            except StreamerError as error:
                text = without_secrets(str(error), job.environment)
                retries, doubted = shard.take_retries(), _doubted(job.shard)
                return JobFailed(job.job, error.code, text, retries=retries, doubted=doubted)
            return Fetched(job.job, checksum, device_bytes, shard.take_retries())

    def _fill(self, _work: Work, reader: Reader, slab: SlabFile, job: Fetch) -> tuple[int, int]:
        """Read, checksum and write part by part, each while it is in the processor's cache."""
        checksum, device = xxhash.xxh3_64(), _DeviceBytes()
        for start, stop in _pieces(reader, job.start, job.stop):
            view = slab.view(start, stop)
            with self._buffer(stop - start) if view is None else view as piece:
                device.add(reader.readinto(piece, start, checksum.update))
                if view is None:
                    slab.write(piece, start)
        return checksum.intdigest(), device.total

    def _fill_aside(
        self, work: Work, reader: Reader, slab: SlabFile, job: Fetch
    ) -> tuple[int, int]:
        """Like `_fill`, but write no byte once the job was given up."""
        checksum, device = xxhash.xxh3_64(), _DeviceBytes()
        for start, stop in _pieces(reader, job.start, job.stop):
            with self._buffer(stop - start) as piece:
                device.add(reader.readinto(piece, start, checksum.update))
                with work.assignment.writing():
                    slab.write(piece, start)
        return checksum.intdigest(), device.total

    def _reread(self, work: Work, job: Reread) -> Checksummed:
        source = work.source
        if source is not None:
            reader = source.reader()
            summed, ctime_ns = reader.settled(lambda: self._device_source(reader, job))
            return Checksummed(job.job, summed, ctime_ns)
        # A new reader is opened, since an older one might still read an object that was replaced.
        opened = storage_for(job.shard.uri, job.environment).open(job.shard)
        with contextlib.closing(opened) as fresh:
            return Checksummed(job.job, self._device_source(fresh, job))

    def _device_source(self, reader: Reader, job: Reread) -> int:
        checksum = xxhash.xxh3_64()
        for start, stop in _pieces(reader, job.start, job.stop):
            piece = self._buffer(stop - start)
            reader.readinto(piece, start, checksum.update)
        return checksum.intdigest()

    def _checksum(self, work: Work, job: Checksum) -> Checksummed:
        work.assignment.hold_on()
        checksum = xxhash.xxh3_64()
        slab = work.slab.file(mapped=self._mapped)
        for start in range(job.start, job.stop, CHECKSUM_PIECE_BYTES):
            piece = self._buffer(min(CHECKSUM_PIECE_BYTES, job.stop - start))
            slab.read(piece, start)
            checksum.update(piece)
        return Checksummed(job.job, checksum.intdigest())

    def _buffer(self, size_bytes: int) -> memoryview:
        """This thread's own buffer; it begins on a page, as O_DIRECT needs."""
        buffer: memoryview | None = getattr(self._own, "buffer", None)
        if buffer is None or len(buffer) < size_bytes:
            buffer = self._own.buffer = memoryview(mmap.mmap(-1, size_bytes))
        return buffer[:size_bytes]

    def close(self, wait_s: float = 1.0) -> None:
        """Close everything; wait at most `wait_s` seconds for files whose close hangs."""
        self._readers.close()
        self.sources.close()
        self.slabs.close()
        self.closer.end(wait_s)


class _DeviceBytes:
    """Sums the bytes from the device over several reads; -1 once a read could not tell them."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, count: int) -> None:
        self.total = -1 if count < 0 or self.total < 0 else self.total + count


def _signed(answer: Fetched | JobFailed, began_s: float) -> Fetched | JobFailed:
    """The answer to a fetch, with the time of its beginning and the ids of worker and thread."""
    if isinstance(answer, JobFailed):
        return answer
    return msgspec.structs.replace(
        answer, began_s=began_s, worker=os.getpid(), thread=threading.get_native_id()
    )


def _pieces(reader: Reader, start: int, stop: int) -> Iterator[tuple[int, int]]:
    piece_bytes = reader.piece_bytes or stop - start
    for left in range(start, stop, piece_bytes):
        yield left, min(left + piece_bytes, stop)


def _environment(job: AnyJob) -> Mapping[str, str]:
    return job.environment if isinstance(job, (Resolve, LookAt, Fetch, Reread)) else {}


def _doubted(shard: StoredShard) -> str:
    """The place of an object, if its listing is not believed any more; otherwise empty."""
    place = place_of(shard.identity, shard.uri)
    return place if not shard.looked_at and LISTINGS.get(place) is False else ""
