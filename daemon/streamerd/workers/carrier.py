"""Carries jobs out: the part of a worker that touches files and slabs.

Runs in the threads of a fetch worker.
"""

from __future__ import annotations

import logging
from typing import Final, assert_never

import xxhash

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.contract import Reader
from streamer_client.storage.registry import storage_for
from streamerd.shm.mapping import NoSpace, SlabMapping
from streamerd.shm.slabs import MOUNT
from streamerd.workers.jobs import (
    Answer,
    AnyJob,
    CloseSlab,
    Failed,
    Fetch,
    Fetched,
    Finished,
    Punch,
    Resolve,
    Resolved,
)
from streamerd.workers.pool import Pool

logger = logging.getLogger(__name__)

OPEN_SLABS: Final = 64
"""Mappings, and readers, that a worker keeps open at once."""


class Carrier:
    """Turns a job into its answer; never raises. Thread-safe."""

    def __init__(self) -> None:
        self._mappings: Pool[SlabMapping] = Pool(OPEN_SLABS)
        self._readers: Pool[Reader] = Pool(OPEN_SLABS)

    def carry_out(self, job: AnyJob) -> Answer:
        """Do what the job says."""
        try:
            return self._carry_out(job)
        except NoSpace as error:
            text = f"{MOUNT} is full ({error}): free memory there, enlarge it or lower memory_limit"
            return Failed(job.job, "memory-limit", text, no_space=True)
        except StreamerError as error:
            return Failed(job.job, error.code, str(error))
        except Exception as error:
            # Never the job itself: its environment may hold secrets.
            logger.exception("job failed kind=%s job=%d", type(job).__name__, job.job)
            return Failed(job.job, StreamerError.code, f"{type(error).__name__}: {error}")

    def _carry_out(self, job: AnyJob) -> Answer:
        match job:
            case Fetch():
                return self._fetch(job)
            case Resolve():
                storage = storage_for(job.source, job.environment)
                return Resolved(job.job, storage.list_shards(job.source, job.pattern, job.files))
            case Punch():
                with self._mappings.borrow(job.slab, lambda: SlabMapping(job.slab)) as mapping:
                    mapping.punch(job.start, job.stop)
                return Finished(job.job)
            case CloseSlab():
                self._mappings.drop(job.slab)
                self._readers.drop(job.slab)
                return Finished(job.job)
            case _:
                assert_never(job)

    def _fetch(self, job: Fetch) -> Fetched:
        def open_reader() -> Reader:
            return storage_for(job.shard.uri, job.environment).open(job.shard)

        with (
            self._readers.borrow(job.slab, open_reader) as reader,
            self._mappings.borrow(job.slab, lambda: SlabMapping(job.slab)) as mapping,
        ):
            mapping.reserve(job.start, job.stop)
            with mapping.view(job.start, job.stop) as block:
                device_bytes = reader.readinto(block, job.start)
                return Fetched(job.job, xxhash.xxh3_64_intdigest(block), device_bytes)

    def close(self) -> None:
        """Give everything back."""
        self._readers.close()
        self._mappings.close()
