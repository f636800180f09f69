"""Gathering slices of stored tensors into new memory of a device.

Owns the threads that gather, and their order of work. A thread claims bytes of the next slices,
waits until the source has them, and lets the engine read their rows into slots and send those.
Slices that somebody asked for are gathered before foretold ones. All threads share a slice that
somebody waits for. Of foretold slices a thread claims many bytes at a time: each claim costs steps
of the interpreter, for which the threads and the loader wait in one queue. A loader gives up the
interpreter lock with each operation of torch, and then waits until all threads have claimed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self

import torch

from streamer_client.contract.errors import StreamerError
from streamer_client.copy.crew import Crew
from streamer_client.copy.cut import Cut, Part, reach_of
from streamer_client.copy.slice import Claim, GatherEngine, Readable, Slice, Source
from streamer_client.copy.torch_state import current_stream_number

PART_BYTES: Final = 16 << 20
"""The most bytes that one thread claims of a slice that somebody waits for."""
SMALLEST_PART_BYTES: Final = 1 << 20
"""The fewest bytes that one thread claims of such a slice; all threads share it."""
BATCH_BYTES: Final = 32 << 20
"""The most bytes of foretold slices that one thread claims at a time. Two ranks loaded a Llama 8B
of 16 GB in 0.47, 0.32, 0.27 and 0.21 s when a thread claimed 4, 8, 16 and 32 MiB of one slice at a
time (two H200s, 12 threads each)."""
SMALLEST_BATCH_BYTES: Final = 8 << 20
"""The fewest bytes of foretold slices that one thread claims at a time while somebody waits for a
slice, if there are as many. While nobody waits, threads claim `BATCH_BYTES` or nothing. When they
claimed 8 MiB at any time, the load above took 0.36 s: the loader could not feed them."""
BATCH_STEP_BYTES: Final = 4 << 20
"""Batches are multiples of this, so that they fill slots."""


class Gatherer:
    """Gathers slices by its own threads. A context manager: leaving it ends the threads.

    Args:
        engine: brings rows to the device; the gatherer closes it.
        device: device of new slices.
    """

    def __init__(self, engine: GatherEngine, device: torch.device) -> None:
        self._engine = engine
        self._queue = engine.queue
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
        self._asked: deque[Slice] = deque()
        self._foretold: deque[Slice] = deque()
        """Slices of which bytes can still be claimed, the next first."""
        self._foretold_bytes = 0
        """How many bytes of foretold slices can be claimed."""
        self._waiting = 0
        """How many threads of the loader wait for slices."""
        self._closed = False
        self._sharers = max(1, engine.threads)
        """How many threads share a slice."""
        self._crew = Crew(self._work, self._sharers, "streamer-gather")

    def begin(self, source: Source, cut: Cut, told: str, *, foretold: bool = False) -> Slice:
        """Have a cut gathered, without waiting for it.

        Args:
            source: the bytes that the slice is cut from.
            cut: the rows, counted from the source's first byte.
            told: name of the slice, for the text of errors.
            foretold: whether nobody has asked for the slice yet.
        """
        made = Slice(cut, self._device, told, source)
        with self._fencing:
            if self._closed:  # the engine may be closed too; `wait` raises
                return made
            self._engine.fence()
        if cut.size_bytes and not self._pushed(made, foretold=foretold):
            with self._lock:
                self._enqueue(made, foretold=foretold)
            if self._queue is not None:
                self._queue.call()
        return made

    def _pushed(self, made: Slice, *, foretold: bool) -> bool:
        """Give a slice to the engine's own queue, if there is one and all bytes can be read."""
        if self._queue is None:
            return False
        try:
            image = made.source(made.cut.start, made.cut.stop, wait=False)
        except (StreamerError, OSError):  # a thread asks again; its error is raised in `wait`
            return False
        return image is not None and self._queue.push(made, image, foretold=foretold)

    def _enqueue(self, made: Slice, *, foretold: bool) -> None:
        size_bytes = made.cut.size_bytes
        if foretold:
            self._foretold.append(made)
            self._foretold_bytes += size_bytes
            self._queued.notify(self._foretold_bytes // BATCH_BYTES)
        else:
            self._asked.append(made)
            self._queued.notify(-(-size_bytes // self._share_bytes(made)))

    def wait(self, made: Slice) -> torch.Tensor:
        """Wait for all bytes of a slice, and return them flat.

        Raises:
            StreamerError: the bytes cannot be read, or the gatherer was closed.
        """
        if self._queue is not None and made.number is not None:
            self._queue.wait(made)
            made.left_bytes = 0
            self._is_used_now(made)
            return made.flat
        with self._lock:
            self._hurry(made)
            self._await(made)
            if made.left_bytes and not made.errors:
                raise StreamerError(f"{made.told(0, made.cut.size_bytes)} was not gathered: closed")
        if made.errors:
            with suppress(StreamerError):  # no other part may arrive in freed memory
                self._settle(made)
            raise made.errors[0]
        self._settle(made)
        return made.flat

    def forget(self, made: Slice) -> None:
        """Give up a foretold slice that nobody wants; bytes that no thread claimed are left out.

        On return, later work on the current stream may use its memory for something else.
        """
        if self._queue is not None and made.number is not None:
            self._queue.withdraw(made)
            made.left_bytes = 0
            return
        with self._lock:
            made.left_bytes -= self._take_back(made)
            self._await(made)
        self._settle(made)

    def _await(self, made: Slice) -> None:
        if not made.left_bytes:
            return
        made.awaited = True
        self._waiting += 1
        if self._queue is not None:
            self._queue.call()
        try:
            self._queued.notify(-(-self._foretold_bytes // SMALLEST_BATCH_BYTES))
            self._arrived.wait_for(lambda: made.left_bytes == 0 or self._closed)
        finally:  # an interrupt ends the wait, too
            self._waiting -= 1

    def _take_back(self, made: Slice) -> int:
        """Take a slice from the foretold ones; returns how many of its bytes are unclaimed."""
        unclaimed_bytes = made.cut.size_bytes - made.claimed_bytes
        if not unclaimed_bytes or made not in self._foretold:
            return 0
        self._foretold.remove(made)
        self._foretold_bytes -= unclaimed_bytes
        return unclaimed_bytes

    def _settle(self, made: Slice) -> None:
        """Order later work on the current stream after the copies into a slice."""
        for ticket in made.tickets:
            self._engine.settle(ticket)
        self._is_used_now(made)

    def _is_used_now(self, made: Slice) -> None:
        """Let the allocator keep a slice's memory until the current stream is done with it."""
        if made.stream != current_stream_number(made.flat.device):
            made.flat.record_stream(torch.cuda.current_stream(made.flat.device))

    def _hurry(self, made: Slice) -> None:
        """Gather a foretold slice before others, as somebody asks for it now."""
        unclaimed_bytes = self._take_back(made)
        if unclaimed_bytes:
            self._asked.append(made)
            self._queued.notify(-(-unclaimed_bytes // self._share_bytes(made)))

    def close(self) -> None:
        """End the threads; nothing is gathered any more after this returns. Idempotent."""
        with self._fencing, self._lock:
            closed, self._closed = self._closed, True
            self._queued.notify_all()
            self._arrived.notify_all()
        if closed:
            return
        if self._queue is not None:
            self._queue.end()
        self._crew.join()
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- gathering threads -----------------------------------------------------------------------

    def _work(self) -> None:
        self._engine.enter()
        queue = self._queue
        while not self._closed:
            calls = 0 if queue is None else queue.calls()
            claims = self._next(wait=queue is None)
            if claims:
                self._carry_out(claims)
            elif queue is not None and not queue.serve(calls):
                queue = None
            del claims  # otherwise the thread keeps their memory while it waits
        self._engine.leave()

    def _next(self, *, wait: bool) -> list[Claim]:
        """Claim bytes. If there are none to claim, wait for them; or return at once, with none.

        Waiting ends when the gatherer is closed, and then nothing is claimed.
        """
        with self._lock:
            while not (self._asked or self._closed or self._foretold_bytes >= self._batch_bytes()):
                if not wait:
                    return []
                self._queued.wait()
            if self._closed:
                return []
            if self._asked:
                return [self._claim(self._asked, self._share_bytes(self._asked[0]))]
            return self._batch()

    def _share_bytes(self, made: Slice) -> int:
        """How much of a slice each thread gathers if they share it."""
        share = -(-made.cut.size_bytes // self._sharers)
        return min(PART_BYTES, max(SMALLEST_PART_BYTES, share))

    def _batch(self) -> list[Claim]:
        """Claim bytes of foretold slices, the next ones first."""
        left_bytes = self._batch_bytes()
        claims = []
        while self._foretold and left_bytes > 0:
            claim = self._claim(self._foretold, left_bytes)
            size_bytes = claim.part.stop - claim.part.start
            left_bytes -= size_bytes
            self._foretold_bytes -= size_bytes
            claims.append(claim)
        return claims

    def _batch_bytes(self) -> int:
        """How many bytes of foretold slices a thread claims now.

        If somebody waits and few are left, a thread claims fewer, so that all threads have some.
        """
        if not self._waiting:
            return BATCH_BYTES
        share_bytes = self._foretold_bytes // (2 * self._sharers)
        share_bytes -= share_bytes % BATCH_STEP_BYTES
        most_bytes = min(BATCH_BYTES, max(SMALLEST_BATCH_BYTES, share_bytes))
        return min(most_bytes, max(1, self._foretold_bytes))

    def _claim(self, queue: deque[Slice], most_bytes: int) -> Claim:
        """Claim bytes of the first slice of a queue, which it leaves with its last byte."""
        made = queue[0]
        start = made.claimed_bytes
        made.claimed_bytes = min(start + most_bytes, made.cut.size_bytes)
        if made.claimed_bytes == made.cut.size_bytes:
            queue.popleft()
        return Claim(made, Part(start, made.claimed_bytes))

    def _carry_out(self, claims: Sequence[Claim]) -> None:
        """Gather claims, together as long as their bytes can be read without waiting."""
        ready: list[Readable] = []
        for claim in claims:
            reach = reach_of(claim.slice.cut, claim.part)
            try:
                image = claim.slice.source(*reach, wait=not ready)
                if image is None:
                    self._gather(ready)
                    ready = []
                    image = claim.slice.source(*reach, wait=True)
                assert image is not None
            except BaseException as error:  # noqa: BLE001  raised in the caller's thread
                self._done([claim], 0, error)
            else:
                ready.append(Readable(*claim, image))
        self._gather(ready)

    def _gather(self, ready: Sequence[Readable]) -> None:
        if not ready:
            return
        try:
            ticket = self._engine.gather(ready)
        except BaseException as error:  # noqa: BLE001  raised in the caller's thread
            if len(ready) == 1:
                self._done(ready, 0, error)
            else:  # once more one by one, so that only slices that are to blame have errors
                for one in ready:
                    self._gather([one])
        else:
            self._done(ready, ticket, None)

    def _done(
        self, parts: Sequence[Claim | Readable], ticket: int, error: BaseException | None
    ) -> None:
        with self._lock:
            arrived = False
            for made, part, *_ in parts:
                made.left_bytes -= part.stop - part.start
                if error is None:
                    made.tickets.append(ticket)
                else:
                    made.errors.append(error)
                arrived |= made.awaited and not made.left_bytes
            if arrived:
                self._arrived.notify_all()
