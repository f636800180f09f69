"""Gathering slices of stored tensors into new memory of a device.

Owns the threads that gather, and their order of work. Each slice is cut into parts, so that several
threads can work on one. A thread waits until the source has a part's bytes, reads its rows into a
slot and sends the slot. Slices that somebody asked for are gathered before foretold ones.
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
"""How much of a slice that nobody waits for one thread gathers at a time. For each part the thread
has to wait for the interpreter lock. Slices of a Llama 70B came at 41 GB/s with 16 MiB, 38 with 8,
26 with 4 and 16 with 2 (one H100, 10 threads)."""
SMALLEST_PART_BYTES: Final = 1 << 20
"""The smallest part of a slice that somebody waits for; all threads share such a slice."""


class GatherEngine(Protocol):
    """Gathers parts of slices; see `CopyEngine` for who calls which method."""

    @property
    def threads(self) -> int: ...
    def fence(self) -> None: ...
    def enter(self) -> None: ...
    def gather(self, image: Image, part: Part, to: Slice) -> int: ...
    def settle(self, ticket: int) -> None: ...
    def leave(self) -> None: ...
    def close(self) -> None: ...


class Source(Protocol):
    """The bytes that a slice is cut from."""

    def __call__(self, start: int, stop: int) -> Image:
        """Wait until bytes `start` to `stop` can be read, and return the image that has them.

        Raises:
            StreamerError: the bytes will never be there.
        """
        ...


class Slice(Contiguous):
    """New memory for the rows of one cut. Serves as a `Target`.

    Args:
        cut: the rows, counted from the image's first byte.
        device: device of the memory.
        told: name of the slice, for the text of errors.
        part_bytes: size of the parts in which it is gathered.
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
    """Gathers slices by its own threads. A context manager: leaving it ends the threads.

    Args:
        engine: brings rows to the device; the gatherer closes it.
        device: device of new slices.
    """

    def __init__(self, engine: GatherEngine, device: torch.device) -> None:
        self._engine = engine
        self._device = device
        self._fencing = threading.Lock()
        """Held during a fence and while closing is announced; taken before the other lock. A fence
        asks the driver, and gathering threads must not wait for the driver."""
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        """Notified when a slice is complete; threads that need one wait here. Gathering threads
        wait for jobs on another condition. If each slice woke them all, they would queue for the
        interpreter lock."""
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
        """Have a cut gathered, without waiting for it.

        Args:
            source: the bytes that the slice is cut from.
            cut: the rows, counted from the source's first byte.
            told: name of the slice, for the text of errors.
            foretold: whether nobody has asked for the slice yet.
        """
        part_bytes = PART_BYTES if foretold else self._shared(cut)
        made = Slice(cut, self._device, told, part_bytes)
        jobs = [_Job(made, part, source) for part in parts_of(cut, part_bytes)]
        with self._fencing:
            if self._closed:  # the engine may be closed too; `wait` raises
                return made
            self._engine.fence()
        with self._lock:
            (self._foretold if foretold else self._asked).extend(jobs)
            self._queued.notify(len(jobs))
        return made

    def _shared(self, cut: Cut) -> int:
        """The size of parts that gives each thread one."""
        share = -(-cut.size_bytes // len(self._threads))
        return min(PART_BYTES, max(SMALLEST_PART_BYTES, share))

    def wait(self, made: Slice) -> torch.Tensor:
        """Wait for all bytes of a slice, and return them flat.

        Raises:
            StreamerError: the bytes cannot be read, or the gatherer was closed.
        """
        with self._lock:
            self._hurry(made)
            self._arrived.wait_for(lambda: made.left_parts == 0 or self._closed)
            if made.left_parts and not made.errors:
                raise StreamerError(f"{made.told(0, made.cut.size_bytes)} was not gathered: closed")
        if made.errors:
            with suppress(StreamerError):  # no other part may arrive in freed memory
                self._settle(made)
            raise made.errors[0]
        self._settle(made)
        return made.flat

    def forget(self, made: Slice) -> None:
        """Give up a foretold slice that nobody wants; parts that were not begun are left out.

        On return, later work on the current stream may use its memory for something else.
        """
        with self._lock:
            others = deque(job for job in self._foretold if job.slice is not made)
            made.left_parts -= len(self._foretold) - len(others)
            self._foretold = others
            self._arrived.wait_for(lambda: made.left_parts == 0 or self._closed)
        self._settle(made)

    def _settle(self, made: Slice) -> None:
        """Order later work on the current stream after the copies into a slice."""
        for ticket in made.tickets:
            self._engine.settle(ticket)
        if made.flat.is_cuda:  # its user may be on another stream than its maker
            made.flat.record_stream(torch.cuda.current_stream(made.flat.device))

    def _hurry(self, made: Slice) -> None:
        """Gather a foretold slice before others, as somebody asks for it now."""
        waiting = [job for job in self._foretold if job.slice is made]
        if waiting:
            self._foretold = deque(job for job in self._foretold if job.slice is not made)
            self._asked.extend(waiting)

    def close(self) -> None:
        """End the threads; nothing is gathered any more after this returns. Idempotent."""
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
            del job  # otherwise the thread keeps its memory while it waits
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
    """Gathers rows into memory of this process, by system calls."""

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
        image: the file that holds the rows.
        cut: the rows.
        part: which bytes of the rows to read.
        memory: memory of at least the part's size.
        told: name of the slice, for the text of errors.

    Raises:
        StreamerError: the image ends before the rows do.
        OSError: the image cannot be read.
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
