"""Ranges of one file that a caller wants read, and the error of a memory limit too small for one.

Pure. The module has Run:ai's name, so that code which imports from it works unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from streamer_client.contract.errors import MemoryLimitError

RUNAI_STREAMER_MEMORY_LIMIT_ENV_VAR_NAME: Final = "RUNAI_STREAMER_MEMORY_LIMIT"

# Programs use these constants to name Run:ai's variables, which size its buffers. Here the
# variables may be set and have no effect.
RUNAI_STREAMER_MAX_PADS_PER_BUFFER_ENV_VAR_NAME: Final = "RUNAI_STREAMER_MAX_PADS_PER_BUFFER"
RUNAI_STREAMER_RING_BUFFERS_ENV_VAR_NAME: Final = "RUNAI_STREAMER_RING_BUFFERS"


class RunaiStreamerMemoryLimitException(MemoryLimitError, ValueError):
    """The caller's memory limit is smaller than one range, which must be in memory as a whole."""


class FileChunks:
    """A file and the ranges to read from it, in any order; they may overlap and leave gaps.

    Args:
        id: the caller's number for this file; `get_chunks` yields it with each range.
        path: a path, or the URI of an object.
        offsets: first byte of each range.
        sizes: number of bytes of each range.

    Raises:
        ValueError: the number of offsets is not that of sizes.
    """

    def __init__(self, id: int, path: str, offsets: Sequence[int], sizes: Sequence[int]) -> None:  # noqa: A002  the name is Run:ai's
        if len(offsets) != len(sizes):
            raise ValueError(
                f"{path}: {len(offsets)} offsets and {len(sizes)} sizes were given; "
                "each range needs one of both"
            )
        self.id = id
        self.path = path
        self.offsets = offsets
        self.sizes = sizes

    @staticmethod
    def contiguous(id: int, path: str, offset: int, sizes: Sequence[int]) -> FileChunks:  # noqa: A002  the name is Run:ai's
        """Ranges that follow one another without a gap, the first of them at `offset`."""
        offsets = []
        for size in sizes:
            offsets.append(offset)
            offset += size
        return FileChunks(id, path, offsets, sizes)

    def total_size(self) -> int:
        """The number of bytes of all ranges."""
        return sum(self.sizes)

    def max_chunk_size(self) -> int:
        """The number of bytes of the longest range."""
        return max(self.sizes)

    def __repr__(self) -> str:
        return (
            f"FileChunks(id={self.id!r}, path={self.path!r}, num_ranges={len(self.sizes)}, "
            f"total_size={self.total_size()})"
        )


def check_memory_limit(limit_bytes: int, largest_bytes: int, origin: str) -> None:
    """Check that a limit leaves room for the largest range; -1 and 0 always do.

    Args:
        limit_bytes: -1 for no limit, 0 for the smallest that works, or a number of bytes.
        largest_bytes: number of bytes of the largest range that is read.
        origin: the parameter or variable that set the limit.

    Raises:
        RunaiStreamerMemoryLimitException: there is no room; the text names both numbers and the
            origin.
    """
    if limit_bytes < -1 or 0 < limit_bytes < largest_bytes:
        raise RunaiStreamerMemoryLimitException(
            f"{origin} is {limit_bytes}, and the largest range has {largest_bytes} bytes; raise "
            "it to that at least, or write -1 for no limit or 0 for the smallest that works"
        )
