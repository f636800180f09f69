"""The bytes of a stored tensor that a view of it stands for. Pure arithmetic.

A view is described by its size, strides and offset. Its elements lie in the file as rows of equal
length at regular distances. A cut describes those rows, each byte once, in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Dimension(NamedTuple):
    """One regular repetition: `times` rows or groups of rows, `stride_bytes` apart."""

    times: int
    stride_bytes: int


class Cut(NamedTuple):
    """Rows of `row_bytes` each, counted from the stored tensor's first byte.

    `outer` lists the repetitions, the widest stride first; if it is empty, there is one row. Rows
    do not overlap.
    """

    start: int
    row_bytes: int
    outer: tuple[Dimension, ...]

    @property
    def rows(self) -> int:
        found = 1
        for dimension in self.outer:
            found *= dimension.times
        return found

    @property
    def size_bytes(self) -> int:
        """How many bytes the rows have together."""
        return self.rows * self.row_bytes

    @property
    def stop(self) -> int:
        """The byte past the end of the last row."""
        past = sum((one.times - 1) * one.stride_bytes for one in self.outer)
        return self.start + past + self.row_bytes

    def starts(self) -> Iterator[int]:
        """The first byte of each row, in ascending order."""
        yield from _starts(self.start, self.outer)


class Layout(NamedTuple):
    """How a view reads the rows of its cut, once they lie in memory one after the other.

    Size and strides are in elements; a repeated dimension (of `expand`) has stride 0.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]


def cut_of(
    size: Sequence[int], strides: Sequence[int], offset: int, item_bytes: int
) -> tuple[Cut, Layout] | None:
    """The rows that a view names, and how the view reads them.

    Args:
        size: elements along each dimension, none of them 0.
        strides: elements between neighbours along each dimension, none negative.
        offset: place of the first element, counted in elements.
        item_bytes: size of an element.

    Returns:
        The rows and the layout. None if elements of the view share bytes in another way than
        `expand` makes them, as only `as_strided` and `unfold` can do: such a view has no rows.
    """
    order = sorted(
        (place for place, count in enumerate(size) if count > 1 and strides[place]),
        key=lambda place: strides[place],
        reverse=True,
    )
    reach = 1
    for place in reversed(order):
        if strides[place] < reach:
            return None
        reach = strides[place] * (size[place] - 1) + reach
    outer, run = _merged([(size[place], strides[place]) for place in order])
    dimensions = tuple(Dimension(count, stride * item_bytes) for count, stride in outer)
    dense, at = [0] * len(size), 1
    for place in reversed(order):
        dense[place] = at
        at *= size[place]
    for place, count in enumerate(size):
        if count == 1:
            dense[place] = 1
    cut = Cut(offset * item_bytes, run * item_bytes, dimensions)
    return cut, Layout(tuple(size), tuple(dense))


def _merged(order: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], int]:
    """Join dimensions that continue each other; also return the innermost run's elements."""
    joined: list[tuple[int, int]] = []
    for count, stride in order:
        if joined and joined[-1][1] == count * stride:
            joined[-1] = (joined[-1][0] * count, stride)
        else:
            joined.append((count, stride))
    if joined and joined[-1][1] == 1:
        return joined[:-1], joined[-1][0]
    return joined, 1


def _starts(at: int, outer: tuple[Dimension, ...]) -> Iterator[int]:
    if not outer:
        yield at
        return
    first, rest = outer[0], outer[1:]
    for place in range(first.times):
        yield from _starts(at + place * first.stride_bytes, rest)


class Part(NamedTuple):
    """Bytes `start` to `stop` of a cut's rows, counted as if the rows were joined."""

    start: int
    stop: int


def reach_of(cut: Cut, part: Part) -> tuple[int, int]:
    """The range of stored bytes from a part's first byte to its last, since rows ascend."""
    return place_of(cut, part.start), place_of(cut, part.stop - 1) + 1


def place_of(cut: Cut, at: int) -> int:
    """The stored byte that is byte `at` of the joined rows."""
    row, rest = divmod(at, cut.row_bytes)
    place = cut.start + rest
    for dimension in reversed(cut.outer):
        row, number = divmod(row, dimension.times)
        place += number * dimension.stride_bytes
    return place


def moved(cut: Cut, by_bytes: int) -> Cut:
    """The same rows in something that begins so many bytes later."""
    return cut._replace(start=cut.start + by_bytes)


def pieces_of(cut: Cut, part: Part) -> Iterator[tuple[int, int]]:
    """Start and size of each run of stored bytes that a part takes, in the part's order."""
    at = part.start
    while at < part.stop:
        size = min(cut.row_bytes - at % cut.row_bytes, part.stop - at)
        yield place_of(cut, at), size
        at += size
