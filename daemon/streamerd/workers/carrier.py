"""Carries jobs out: the part of a worker that touches files and slabs.

Runs in the threads of a fetch worker.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import threading
import traceback
from collections.abc import Mapping
from typing import Final, assert_never

import xxhash

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.redacted import without_secrets
from streamer_client.contract.uris import is_remote
from streamer_client.storage.contract import Reader
from streamer_client.storage.registry import storage_for
from streamerd.shm.slab_file import NoSpace, SlabFile
from streamerd.shm.slabs import MOUNT, remove_slab
from streamerd.workers.jobs import (
    Answer,
    AnyJob,
    Checksum,
    Checksummed,
    CloseSlab,
    Failed,
    Fetch,
    Fetched,
    Finished,
    Punch,
    Reread,
    Resolve,
    Resolved,
    Unlink,
)
from streamerd.workers.pool import Pool
from streamerd.workers.readers import Readers

logger = logging.getLogger(__name__)

OPEN_SLABS: Final = 64
"""Slabs, and readers, that a worker keeps open at once."""
CHECKSUM_PIECE_BYTES: Final = 256 << 10
"""A slab is summed up in pieces that stay in the processor's cache."""


class Carrier:
    """Turns a job into its answer; never raises. Thread-safe.

    Args:
        mapped: fill slabs through mappings; see `shm/slab_file.py`.
    """

    def __init__(self, *, mapped: bool = False) -> None:
        self._mapped = mapped
        self._slabs: Pool[SlabFile] = Pool(OPEN_SLABS)
        self._readers = Readers(OPEN_SLABS)
        self._own = threading.local()

    def carry_out(self, job: AnyJob) -> Answer:
        """Do what the job says."""
        try:
            return self._carry_out(job)
        except NoSpace as error:
            text = f"{MOUNT} is full ({error}): free memory there, enlarge it or lower memory_limit"
            return Failed(job.job, "memory-limit", text, no_space=True)
        except StreamerError as error:
            return Failed(job.job, error.code, without_secrets(str(error), _environment(job)))
        except Exception as error:  # noqa: BLE001  logged below, without secrets
            # A library's text may hold what it was given, and so does a traceback's last line.
            text = without_secrets(traceback.format_exc(), _environment(job))
            logger.error("job failed kind=%s job=%d\n%s", type(job).__name__, job.job, text)
            text = without_secrets(f"{type(error).__name__}: {error}", _environment(job))
            return Failed(job.job, StreamerError.code, text)

    def _carry_out(self, job: AnyJob) -> Answer:
        match job:
            case Fetch():
                return self._fetch(job)
            case Resolve():
                storage = storage_for(job.source, job.environment)
                return Resolved(job.job, storage.list_shards(job.source, job.pattern, job.files))
            case Punch():
                with self._borrow(job.slab) as slab:
                    slab.punch(job.start, job.stop)
                return Finished(job.job)
            case Reread():
                return self._reread(job)
            case Checksum():
                return self._checksum(job)
            case CloseSlab():
                self._slabs.drop((job.slab, True))
                self._slabs.drop((job.slab, False))
                self._readers.drop(job.slab)
                return Finished(job.job)
            case Unlink():
                remove_slab(job.slab)
                return Finished(job.job)
            case _:
                assert_never(job)

    def _borrow(
        self, slab: str, *, mapped: bool = False
    ) -> contextlib.AbstractContextManager[SlabFile]:
        mapped = mapped or self._mapped
        return self._slabs.borrow((slab, mapped), lambda: SlabFile(slab, mapped=mapped))

    def _fetch(self, job: Fetch) -> Fetched | Failed:
        # Bodies of objects go straight into the mapping: a block is one request, and as a whole it
        # would fit no processor's cache on the way.
        with (
            self._readers.borrow(job.slab, job.shard, job.environment) as shard,
            self._borrow(job.slab, mapped=is_remote(job.shard.uri)) as slab,
        ):
            slab.reserve(job.start, job.stop)
            try:
                checksum, device_bytes = self._fill(job, shard.reader, slab)
            except StreamerError as error:
                text = without_secrets(str(error), job.environment)
                return Failed(job.job, error.code, text, retries=shard.take_retries())
            return Fetched(job.job, checksum, device_bytes, shard.take_retries())

    def _fill(self, job: Fetch, reader: Reader, slab: SlabFile) -> tuple[int, int]:
        """Read, checksum and write piece by piece, each while it is in the processor's cache."""
        size_bytes = job.stop - job.start
        piece_bytes = min(reader.piece_bytes or size_bytes, size_bytes)
        checksum = xxhash.xxh3_64()
        device_bytes, told = 0, True
        for start in range(job.start, job.stop, piece_bytes):
            stop = min(start + piece_bytes, job.stop)
            view = slab.view(start, stop)
            with self._buffer(stop - start) if view is None else view as piece:
                count = reader.readinto(piece, start)
                checksum.update(piece)
                if view is None:
                    slab.write(piece, start)
            device_bytes += count
            told = told and count >= 0
        return checksum.intdigest(), device_bytes if told else -1

    def _reread(self, job: Reread) -> Checksummed:
        checksum = xxhash.xxh3_64()
        # Opened anew: a reader kept from before might still read what was unlinked since.
        opened = storage_for(job.shard.uri, job.environment).open(job.shard)
        with contextlib.closing(opened) as reader:
            piece_bytes = reader.piece_bytes or job.stop - job.start
            for start in range(job.start, job.stop, piece_bytes):
                piece = self._buffer(min(piece_bytes, job.stop - start))
                reader.readinto(piece, start)
                checksum.update(piece)
        return Checksummed(job.job, checksum.intdigest())

    def _checksum(self, job: Checksum) -> Checksummed:
        checksum = xxhash.xxh3_64()
        with self._borrow(job.slab) as slab:
            for start in range(job.start, job.stop, CHECKSUM_PIECE_BYTES):
                piece = self._buffer(min(CHECKSUM_PIECE_BYTES, job.stop - start))
                slab.read(piece, start)
                checksum.update(piece)
        return Checksummed(job.job, checksum.intdigest())

    def _buffer(self, size_bytes: int) -> memoryview:
        """This thread's own buffer, on a page's boundary as O_DIRECT needs it."""
        buffer: memoryview | None = getattr(self._own, "buffer", None)
        if buffer is None or len(buffer) < size_bytes:
            buffer = self._own.buffer = memoryview(mmap.mmap(-1, size_bytes))
        return buffer[:size_bytes]

    def close(self) -> None:
        """Give everything back."""
        self._readers.close()
        self._slabs.close()


def _environment(job: AnyJob) -> Mapping[str, str]:
    return job.environment if isinstance(job, (Resolve, Fetch, Reread)) else {}
