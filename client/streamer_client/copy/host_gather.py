"""Gathering slices into memory of this process, by system calls alone.

Owns reading a slice's rows from a file. The gatherer's threads call it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from streamer_client.copy.cut import Cut, Part, pieces_of
from streamer_client.copy.destination import memory_at
from streamer_client.copy.feed import Image
from streamer_client.copy.slice import Readable


class HostGather:
    """Gathers rows into memory of this process, by system calls."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.queue = None

    def fence(self) -> None: ...

    def enter(self) -> None: ...

    def gather(self, parts: Sequence[Readable]) -> int:
        for to, part, image in parts:
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
