"""The queue of slices that a compiled ring's lanes gather without the interpreter lock.

Owns the texts of errors, and that nothing of C is used after its end. Gathering threads serve the
queue; the threads that load weights add slices and wait for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from streamer_client.contract.errors import StreamerError
from streamer_client.copy.feed import Image
from streamer_client.copy.ring.lanes import CopyFailed, CudaFailure, RingLane, ShortImage
from streamer_client.copy.ring.native import NativeLane, NativeQueue
from streamer_client.copy.slice import Slice

Settle = Callable[[int, int], None]
"""Waits until so many slots of the lane with this number have arrived; raises `CopyFailed`."""


class RingSliceQueue:
    """A `SliceQueue` of a compiled ring.

    Args:
        native: the queue in C.
        lane: returns the calling thread's lane and its number, which counts from 1.
        settle: waits for slots of a lane.
    """

    def __init__(
        self, native: NativeQueue, lane: Callable[[], tuple[RingLane, int]], settle: Settle
    ) -> None:
        self._native = native
        self._lane = lane
        self._settle = settle
        self._changed = threading.Condition()
        self._users = 0
        """How many threads use the queue; C frees its memory when there are none."""
        self._ended: str | None = None
        """Why the queue ended."""
        self._kept: dict[int, tuple[Slice, Image]] = {}
        """The memory and the files of slices that C knows, by C's numbers."""

    # --- threads that load weights ---------------------------------------------------------------

    def push(self, made: Slice, image: Image, *, foretold: bool) -> bool:
        """Have a slice gathered whose bytes can all be read; False if C cannot do it."""
        with self._used() as ended:
            number = None if ended else self._native.add(made, image, asked=not foretold)
            if number is None:
                return False
            self._kept[number] = made, image
            made.number = number
            return True

    def wait(self, made: Slice) -> None:
        """Wait until all bytes of a slice have arrived.

        Raises:
            StreamerError: they cannot be read or copied, or the queue has ended.
        """
        number = made.number
        if number is None:
            return
        with self._used() as ended:
            if ended:
                raise StreamerError(f"{_told(made)} was not gathered: {ended}")
            if not self._native.arrived(number):
                self._gathered(made, number)
            self._forget(made, number)

    def withdraw(self, made: Slice) -> None:
        """Give up a slice; returns when none of its bytes is on its way any more."""
        number = made.number
        if number is None:
            return
        with self._used() as ended, suppress(StreamerError):
            if not ended:
                self._native.withdraw(number)
                self._gathered(made, number)
                self._forget(made, number)

    def _gathered(self, made: Slice, number: int) -> None:
        found = NativeQueue.NOT_YET
        while found == NativeQueue.NOT_YET:
            found, sent, at, error = self._native.wait(number)
        if found == NativeQueue.ENDED:
            raise StreamerError(f"{_told(made)} was not gathered: {self._ended}")
        failed = None if error is None else self._failure(made, number, at, error)
        for lane, slots in enumerate(sent, 1):
            if slots:
                with suppress(*() if failed is None else (StreamerError,)):
                    self._settle(lane, slots)
        if failed is not None:
            self._forget(made, number)
            raise failed from error

    def _failure(self, made: Slice, number: int, at: int, error: Exception) -> Exception:
        told = made.told(at, made.cut.size_bytes)
        if isinstance(error, ShortImage):
            _, image = self._kept[number]
            return image.ended(told)
        if isinstance(error, CudaFailure):
            return CopyFailed(f"copying {told} to the GPU failed: {error.what}")
        return error

    def _forget(self, made: Slice, number: int) -> None:
        made.number = None
        del self._kept[number]
        self._native.free(number)

    # --- gathering threads -----------------------------------------------------------------------

    def calls(self) -> int:
        """A number that `call` changes."""
        with self._used() as ended:
            return 0 if ended else self._native.calls()

    def call(self) -> None:
        """Make all threads that serve return."""
        with self._used() as ended:
            if not ended:
                self._native.call()

    def serve(self, calls: int) -> bool:
        """Gather slices until `calls` is outdated; False once the queue has ended."""
        with self._used() as ended:
            if ended:
                return False
            try:
                lane, number = self._lane()
                assert isinstance(lane, NativeLane)
                lane.serve(number - 1, calls)
            except BaseException as error:  # noqa: BLE001  raised where slices are waited for
                told = error.what if isinstance(error, CudaFailure) else str(error)
                self._stop(f"a gathering thread failed: {told}")
        return self._ended is None

    # --- the end ---------------------------------------------------------------------------------

    def end(self) -> None:
        """Stop gathering; returns when no thread uses the queue any more. Idempotent."""
        self._stop("closed")
        with self._changed:
            self._changed.wait_for(lambda: self._users == 0)
            self._kept.clear()

    def _stop(self, why: str) -> None:
        with self._changed:
            if self._ended is None:
                self._ended = why
                self._native.end()

    @contextmanager
    def _used(self) -> Iterator[str | None]:
        """Keep C's memory meanwhile; gives the reason if the queue has ended."""
        counted = False  # an interrupt may come anywhere, and `end` waits for whoever is counted
        try:
            with self._changed:
                ended = self._ended
                self._users, counted = self._users + (ended is None), ended is None
            yield ended
        finally:
            if counted:
                with self._changed:
                    self._users -= 1
                    self._changed.notify_all()


def _told(made: Slice) -> str:
    return made.told(0, made.cut.size_bytes)
