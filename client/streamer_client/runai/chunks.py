"""Ranges of one file that a caller wants read. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class FileChunks:
    """A file and the ranges to read from it, in any order; they may overlap and leave gaps.

    Args:
        id: what `get_chunks` calls this file; a number of the caller's.
        path: a path, or a URI of an object.
        offsets: first byte of each range.
        sizes: bytes of each range.

    Raises:
        ValueError: there are not as many offsets as sizes.
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
        """Bytes of all ranges."""
        return sum(self.sizes)

    def max_chunk_size(self) -> int:
        """Bytes of the longest range."""
        return max(self.sizes)

    def __repr__(self) -> str:
        return (
            f"FileChunks(id={self.id!r}, path={self.path!r}, num_ranges={len(self.sizes)}, "
            f"total_size={self.total_size()})"
        )
