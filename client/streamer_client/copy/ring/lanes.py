"""What the engine asks of a ring, whichever way it is made.

A ring has lanes, one for each copying thread: a few pinned slots that are filled and sent in turn.
Filling a slot waits for the slot's last copy only, so a lane fills one while others are on their
way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streamer_client.contract.errors import StreamerError
from streamer_client.copy.block_jobs import Piece
from streamer_client.copy.cut import Cut, Part
from streamer_client.copy.destination import Target
from streamer_client.copy.feed import Image


class CopyFailed(StreamerError):
    """The GPU, its driver or its memory failed; the text names the error and what was copied."""

    code = "copy-failed"


class CudaFailure(Exception):
    """A call to CUDA failed; whoever knows what was copied turns it into `CopyFailed`.

    Args:
        what: CUDA's name of the error.
        at_bytes: bytes of the call's range before the part that failed.
    """

    def __init__(self, what: str, at_bytes: int = 0) -> None:
        super().__init__(what)
        self.what = what
        self.at_bytes = at_bytes


class ShortImage(Exception):
    """The file that a shard's bytes were to be read from ends too early."""


class Lane(Protocol):
    """One thread's slots. `wait` may be called by others; `close` ends it."""

    @property
    def sent(self) -> int:
        """Slots sent so far: what `wait` takes."""
        ...

    def copy(self, image: Image, start: int, total: int, pieces: Sequence[Piece[Target]]) -> bool:
        """Read bytes of an image and send them, slot by slot; on return they are read.

        Returns:
            Whether this kind of lane can; if not, nothing was done: fill slots instead.

        Raises:
            CudaFailure: a copy could not be sent, or an earlier one failed.
            ShortImage: the file ends before.
            OSError: it cannot be read.
        """
        ...

    def gather(self, image: Image, cut: Cut, part: Part, address: int) -> bool:
        """Read a part of a cut's rows and send it, slot by slot; on return it is read.

        Args:
            image: what the cut names rows of.
            cut: the rows.
            part: which of their bytes.
            address: device memory that the part's first byte goes to, the others behind it.

        Returns:
            As `copy`, and raises as it does.
        """
        ...

    def slot(self) -> memoryview:
        """A slot to fill, page-aligned; the same until it is sent.

        Raises:
            CudaFailure: it cannot be pinned, or an earlier copy failed.
        """
        ...

    def send(self, skip: int, total: int, pieces: Sequence[Piece[Target]]) -> None:
        """Send the slot's bytes `skip` to `skip + total` to the pieces, one after the other.

        Raises:
            CudaFailure: as above.
        """
        ...

    def wait(self, sent: int) -> None:
        """Wait until the first `sent` slots have arrived.

        Raises:
            CudaFailure: they have not, and will not.
        """
        ...

    def close(self) -> None:
        """Wait for what is on its way, and free the slots.

        Raises:
            CudaFailure: as above; the slots are freed all the same.
        """
        ...


class Ring(Protocol):
    """Lanes to one device."""

    slot_bytes: int

    def fence(self) -> None:
        """Order copies after what the caller's current stream has to do now.

        Memory that was allocated a moment ago may still be in use there.
        """
        ...

    def lane(self) -> Lane:
        """A new lane, for the calling thread."""
        ...

    def close(self) -> None:
        """Free what the lanes shared; they are closed."""
        ...
