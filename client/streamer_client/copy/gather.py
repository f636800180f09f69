"""Slices of stored tensors into new memory of a device: who waits for them, and who gathers.

Owns the threads that gather and the order in which they do. Each slice is cut into parts, so that
several threads work on one; a thread waits until the source has a part's bytes, reads its rows into
a slot and sends that. What is asked for is gathered before what is only foretold.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from typing import Final, NamedTuple, Protocol, Self

import torch

from streamer_client.contract.errors import StreamerError
from streamer_client.copy.cut import Cut, Part, parts_of, pieces_of, reach_of
from streamer_client.copy.destination import Contiguous, memory_at
from streamer_client.copy.feed import Image

PART_BYTES: Final = 16 << 20
"""What one thread gathers at a time of a slice that nobody waits for. It takes the interpreter lock
for each part, and queues for it: of a Llama 70B's slices 41 GB/s came with 16 MiB, 38 with 8, 26
with 4 and 16 with 2 (one H100, 10 threads)."""
SMALLEST_PART_BYTES: Final = 1 << 20
"""The smallest part of a slice that somebody waits for; all threads share such a slice."""


class GatherEngine(Protocol):
    """What gathers; see `CopyEngine` for who calls what."""

    @property
    def threads(self) -> int: ...
    def fence(self) -> None: ...
    def enter(self) -> None: ...
    def gather(self, image: Image, part: Part, to: Slice) -> int: ...
    def settle(self, ticket: int) -> None: ...
    def leave(self) -> None: ...
    def close(self) -> None: ...


class Source(Protocol):
    """Where a slice is cut from."""

    def __call__(self, start: int, stop: int) -> Image:
        """Wait until bytes `start` to `stop` can be read there.

        Raises:
            StreamerError: they will never be.
        """
        ...


class Slice(Contiguous):
    """New memory for the rows of one cut.

    Args:
        cut: the rows, counted from the image's first byte.
        device: where the memory is.
        told: what it is, for the text of errors.
        part_bytes: in how large parts it is gathered.
    """

    __slots__ = ("_told", "address", "cut", "errors", "flat", "left_bytes", "left_parts", "tickets")

    def __init__(self, cut: Cut, device: torch.device, told: str, part_bytes: int) -> None:
        self.cut = cut
        # An inference tensor could not be written to outside of inference_mode.
        with torch.inference_mode(mode=False):
            self.flat = torch.empty(cut.size_bytes, dtype=torch.uint8, device=device)
        self.address = self.flat.data_ptr()
        self._told = told
        self.left_bytes = cut.size_bytes
        self.left_parts = len(range(0, cut.size_bytes, part_bytes))
        self.tickets: list[int] = []
        self.errors: list[BaseException] = []

    def told(self, start: int, stop: int) -> str:
        return f"bytes {start} to {stop} of a slice of {self._told}"


class _Job(NamedTuple):
    slice: Slice
    part: Part
    source: Source


class Gatherer:
    """A context manager: leaving it ends the threads.

    Args:
        engine: how rows get to the device; closed with the gatherer.
        device: of new slices.
    """

    def __init__(self, engine: GatherEngine, device: torch.device) -> None:
        self._engine = engine
        self._device = device
        self._fencing = threading.Lock()
        """Held during a fence, and while closing is told; taken before the other lock. A fence asks
        the driver, which gathering threads must not wait for."""
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        """Who waits for a slice waits here; gathering threads wait for jobs at the other one, as
        waking them all for each slice would have them queue for the interpreter lock."""
        self._queued = threading.Condition(self._lock)
        self._asked: deque[_Job] = deque()
        self._foretold: deque[_Job] = deque()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"streamer-gather-{place}", daemon=True)
            for place in range(max(1, engine.threads))
        ]
        for thread in self._threads:
            thread.start()

    def begin(self, source: Source, cut: Cut, told: str, *, foretold: bool = False) -> Slice:
        """Have a cut gathered; does not wait.

        Args:
            source: what it is cut from.
            cut: its rows, counted from the source's first byte.
            told: what it is, for the text of errors.
            foretold: nobody asked for it yet.
        """
        part_bytes = PART_BYTES if foretold else self._shared(cut)
        made = Slice(cut, self._device, told, part_bytes)
        jobs = [_Job(made, part, source) for part in parts_of(cut, part_bytes)]
        with self._fencing:
            if self._closed:  # the engine may be closed too; `wait` says so
                return made
            self._engine.fence()
        with self._lock:
            (self._foretold if foretold else self._asked).extend(jobs)
            self._queued.notify(len(jobs))
        return made

    def _shared(self, cut: Cut) -> int:
        """The size of parts of which each thread gets one."""
        share = -(-cut.size_bytes // len(self._threads))
        return min(PART_BYTES, max(SMALLEST_PART_BYTES, share))

    def wait(self, made: Slice) -> torch.Tensor:
        """The slice's bytes, flat, once they are all there.

        Raises:
            StreamerError: they cannot be had, or the gatherer was closed.
        """
        with self._lock:
            self._hurry(made)
            self._arrived.wait_for(lambda: made.left_parts == 0 or self._closed)
            if made.left_parts and not made.errors:
                raise StreamerError(f"{made.told(0, made.cut.size_bytes)} was not gathered: closed")
        if made.errors:
            with suppress(StreamerError):  # other parts must not arrive in memory that is freed
                self._settle(made)
            raise made.errors[0]
        self._settle(made)
        return made.flat

    def forget(self, made: Slice) -> None:
        """Nobody wants a foretold slice any more: what of it is not begun is left out.

        On return its memory may be used for something else, in the order of the current stream.
        """
        with self._lock:
            others = deque(job for job in self._foretold if job.slice is not made)
            made.left_parts -= len(self._foretold) - len(others)
            self._foretold = others
            self._arrived.wait_for(lambda: made.left_parts == 0 or self._closed)
        self._settle(made)

    def _settle(self, made: Slice) -> None:
        """Have later work on the current stream come after the copies into a slice."""
        for ticket in made.tickets:
            self._engine.settle(ticket)
        if made.flat.is_cuda:  # whoever uses it need not be on the stream that it was made on
            made.flat.record_stream(torch.cuda.current_stream(made.flat.device))

    def _hurry(self, made: Slice) -> None:
        """What was foretold is asked for now."""
        waiting = [job for job in self._foretold if job.slice is made]
        if waiting:
            self._foretold = deque(job for job in self._foretold if job.slice is not made)
            self._asked.extend(waiting)

    def close(self) -> None:
        """End the threads; nothing is gathered any more on return. Idempotent."""
        with self._fencing, self._lock:
            closed, self._closed = self._closed, True
            self._queued.notify_all()
            self._arrived.notify_all()
        if closed:
            return
        for thread in self._threads:
            thread.join()
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- gathering threads -----------------------------------------------------------------------

    def _work(self) -> None:
        self._engine.enter()
        while (job := self._next()) is not None:
            ticket, error = 0, None
            try:
                ticket = self._carry_out(job)
            except BaseException as failure:  # noqa: BLE001  raised in the caller's thread
                error = failure
            self._done(job.slice, ticket, error)
            del job  # waiting for the next one, it would keep the memory of this one
        self._engine.leave()

    def _next(self) -> _Job | None:
        with self._lock:
            while not (self._asked or self._foretold or self._closed):
                self._queued.wait()
            if self._closed:
                return None
            return (self._asked or self._foretold).popleft()

    def _carry_out(self, job: _Job) -> int:
        start, stop = reach_of(job.slice.cut, job.part)
        image = job.source(start, stop)
        return self._engine.gather(image, job.part, job.slice)

    def _done(self, made: Slice, ticket: int, error: BaseException | None) -> None:
        with self._lock:
            made.left_parts -= 1
            if error is None:
                made.tickets.append(ticket)
            else:
                made.errors.append(error)
            if not made.left_parts:
                self._arrived.notify_all()


class HostGather:
    """Rows into memory of this process, by system calls."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def fence(self) -> None: ...

    def enter(self) -> None: ...

    def gather(self, image: Image, part: Part, to: Slice) -> int:
        memory = memory_at(to.address + part.start, part.stop - part.start)
        read_rows(image, to.cut, part, memory, to.told(part.start, part.stop))
        return 0

    def settle(self, ticket: int) -> None: ...

    def leave(self) -> None: ...

    def close(self) -> None: ...


def read_rows(image: Image, cut: Cut, part: Part, memory: memoryview, told: str) -> None:
    """Read a part of a cut's rows into the beginning of `memory`.

    Args:
        image: what the cut names rows of.
        cut: the rows.
        part: which of their bytes.
        memory: at least as large as the part.
        told: what is read, for the text of errors.

    Raises:
        StreamerError: the image ends before.
        OSError: it cannot be read.
    """
    at = 0
    for start, size in pieces_of(cut, part):
        done = 0
        while done < size:
            count = os.preadv(image.fd, [memory[at + done : at + size]], start + done)
            if not count:
                raise image.ended(told)
            done += count
        at += size
