"""How large a ring is: threads, slots of each, bytes of a slot. Pure; the figures are measured.

docs/performance.md has the table. More threads copy until the host's memory is the limit; a slot
must be large enough that the device's commands do not count, and small enough that what was read
into it is still in the processor's cache when the device fetches it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.sizes import parse_size

MOST_PINNED_BYTES: Final = 160 << 20
"""Of one rank."""
SHAPE_ENV: Final = "STREAMERD_RING"
SLOT_ALIGNMENT_BYTES: Final = 4096
MOST_THREADS: Final = 10
MOST_THREADS_SHARED: Final = 12
SLOT_BYTES: Final = 4 << 20
SLOT_BYTES_SHARED: Final = 2 << 20
"""For several ranks: they share the cache as well as the memory behind it."""
SLOTS: Final = 2


class RingShape(NamedTuple):
    threads: int
    slots: int
    slot_bytes: int

    @property
    def pinned_bytes(self) -> int:
        return self.threads * self.slots * self.slot_bytes


def ring_shape(cores: int, ranks: int) -> RingShape:
    """The shape for slabs, on a machine with so many cores for so many ranks."""
    share = max(1, cores // ranks)
    if ranks == 1:
        return RingShape(min(MOST_THREADS, share), SLOTS, SLOT_BYTES)
    return RingShape(min(MOST_THREADS_SHARED, share), SLOTS, SLOT_BYTES_SHARED)


def storage_shape(threads: int, block_bytes: int) -> RingShape:
    """The shape for reading storage itself: whole blocks, as each request to it costs.

    One slot a thread: the copy out of it takes a fraction of the time that reading does.
    """
    return RingShape(max(1, min(threads, MOST_PINNED_BYTES // block_bytes)), 1, block_bytes)


def parse_shape(text: str) -> RingShape:
    """`THREADSxSLOTSxSIZE`, for example `8x2x4MiB`.

    Raises:
        ConfigError: it is not of that form, or more than a rank may pin.
    """
    found = re.fullmatch(r"(\d+)x(\d+)x(.+)", text.strip())
    if found is None:
        raise ConfigError(f"{SHAPE_ENV} is {text!r}; it is THREADSxSLOTSxSIZE, such as 8x2x4MiB")
    try:
        shape = RingShape(int(found[1]), int(found[2]), parse_size(found[3]))
    except ValueError as error:
        raise ConfigError(f"{SHAPE_ENV} is {text!r}: {error}") from error
    if not (shape.threads and shape.slots and shape.slot_bytes):
        raise ConfigError(f"{SHAPE_ENV} is {text!r}; none of its numbers may be 0")
    if shape.slot_bytes % SLOT_ALIGNMENT_BYTES:
        raise ConfigError(f"{SHAPE_ENV} is {text!r}; a slot is a multiple of 4KiB")
    if shape.pinned_bytes > MOST_PINNED_BYTES:
        raise ConfigError(
            f"{SHAPE_ENV} is {text!r}, {shape.pinned_bytes} bytes of pinned memory; "
            f"{MOST_PINNED_BYTES} is the most for one rank"
        )
    return shape
