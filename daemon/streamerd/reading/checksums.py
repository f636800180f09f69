"""The XXH3-64 checksum of each block of one shard, which the worker took that read the block.

Each shard has one array, so that the checksums of a thousand blocks take 8 KB and can be written to
a file without conversion. Used in the daemon's loop: by `streamerctl verify`, and by adoption after
a daemon was killed.
"""

from __future__ import annotations

import sys
from array import array
from typing import Self


class Checksums:
    """Checksums by block number. A block that was not read yet has 0."""

    def __init__(self, blocks: int) -> None:
        self._values = array("Q", bytes(8 * blocks))

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        """The checksums in the bytes that `packed` returned.

        Raises:
            ValueError: the bytes are not whole checksums.
        """
        checksums = cls(0)
        checksums._values = _little(array("Q", packed))
        return checksums

    def packed(self) -> bytes:
        """All checksums as bytes: eight for each, little-endian."""
        return _little(self._values[:]).tobytes()

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, block: int) -> int:
        return self._values[block]

    def __setitem__(self, block: int, checksum: int) -> None:
        self._values[block] = checksum


def _little(values: array[int]) -> array[int]:
    """The array converted from this machine's byte order to little-endian, or back."""
    if sys.byteorder != "little":
        values.byteswap()
    return values
