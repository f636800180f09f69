"""The interface of a ring to the engine, for the compiled ring and for the one made of torch.

A ring has lanes, one for each copying thread. A lane is a few pinned slots that its thread fills
and sends in turn. Before a slot is filled again, the thread waits only for that slot's own last
copy. So a lane fills one slot while its others are on their way to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streamer_client.contract.errors import StreamerError
from streamer_client.copy.destination import Target
from streamer_client.copy.feed import Image
from streamer_client.copy.plan import Piece
from streamer_client.copy.slice import Readable


class CopyFailed(StreamerError):
    """The GPU, its driver or its memory failed; the text names CUDA's error and the tensor."""

    code = "copy-failed"


class CudaFailure(Exception):
    """A call to CUDA failed. The engine, which knows the tensor, turns it into `CopyFailed`.

    Args:
        what: CUDA's name of the error.
        at_bytes: how many bytes of the call's range lie before the part that failed.
    """

    def __init__(self, what: str, at_bytes: int = 0) -> None:
        super().__init__(what)
        self.what = what
        self.at_bytes = at_bytes


class ShortImage(Exception):
    """A shard's image ends before the bytes that were to be read from it."""


class RingLane(Protocol):
    """One copying thread's slots. Other threads may call only `wait`, and `close` at the end."""

    @property
    def sent(self) -> int:
        """How many slots were sent so far; `wait` takes such a number."""
        ...

    def copy(self, image: Image, start: int, total: int, pieces: Sequence[Piece[Target]]) -> bool:
        """Read `total` bytes of an image from `start` on and send them, slot by slot.

        On return all bytes were read; the last ones may still be on their way to the device.

        Returns:
            True if this kind of lane reads images itself. If False, nothing was done, and the
            engine must fill slots instead.

        Raises:
            CudaFailure: a copy could not be sent, or an earlier one failed.
            ShortImage: the image ends before the last of these bytes.
            OSError: the image cannot be read.
        """
        ...

    def gather(self, parts: Sequence[Readable]) -> bool:
        """Read rows of parts of slices and send them, slot by slot; on return they are read.

        Returns:
            The same as `copy`; this raises the same errors, too. The place of an error is counted
            in the bytes of the part in which it occurred.
        """
        ...

    def slot(self) -> memoryview:
        """The slot to fill next, page-aligned; the same slot until `send`.

        Raises:
            CudaFailure: the slot cannot be pinned, or its last copy failed.
        """
        ...

    def send(self, skip: int, total: int, pieces: Sequence[Piece[Target]]) -> None:
        """Send the slot's bytes `skip` to `skip + total`, which fill the pieces in turn.

        Raises:
            CudaFailure: a copy could not be sent, or an earlier one failed.
        """
        ...

    def wait(self, sent: int) -> None:
        """Wait until the first `sent` slots of this lane have arrived.

        Raises:
            CudaFailure: one of them failed to arrive.
        """
        ...

    def close(self) -> None:
        """Wait until all that was sent has arrived, and free the slots.

        Raises:
            CudaFailure: something failed to arrive; the slots are freed nevertheless.
        """
        ...


class Ring(Protocol):
    """Lanes to one device."""

    slot_bytes: int

    def fence(self) -> None:
        """Order later copies after the work that is queued on the caller's current stream now.

        That work may still use memory which was freed, and allocated again as a destination. Fences
        of several streams all hold. One thread at a time calls this, never after `close`.
        """
        ...

    def lane(self) -> RingLane:
        """Make a new lane for the calling thread."""
        ...

    def close(self) -> None:
        """Free what the lanes share; all lanes were closed before."""
        ...
