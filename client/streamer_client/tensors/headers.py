"""Reading the shards' headers out of a feed, each once.

Owns the check that no two shards have a tensor of the same name. Owns also collecting a header
block by block, as it may be longer than the memory that a load may use at once.
`contract/safetensors/header.py` parses and validates headers. Runs in the thread that uses the
checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from streamer_client.contract.errors import CorruptCheckpoint
from streamer_client.contract.layout import BlockRange, block_span, blocks_of_bytes
from streamer_client.contract.limits import MAX_HEADER_BYTES, MAX_SOURCE_CHARACTERS
from streamer_client.contract.printable import printable
from streamer_client.contract.safetensors.catalog import ShardCatalog
from streamer_client.contract.safetensors.header import LENGTH_BYTES, header_bytes, parse_header
from streamer_client.copy.feed import Feed

FIRST_READ_BYTES: Final = 64 << 10
"""Bytes read from the first block before a header's length is known. Most headers are shorter; for
those, reading more costs less than reading twice."""


class ShardHeaders(Protocol):
    """What a pass asks about the headers of its shards. See `Headers` for each method."""

    def known(self, shard: int) -> ShardCatalog | None: ...
    def in_pass(self, number: int, shard: int) -> ShardCatalog: ...
    def in_view(self, shard: int) -> ShardCatalog | None: ...


class Headers:
    """The headers of a feed's shards, as far as they were read. For one thread at a time.

    Args:
        feed: hands out the shards' blocks.
        unique: whether a name in two shards is an error, as it is in a checkpoint.
        owners: for a name that is in several shards, the shard that counts. A name in `owners` may
            be in several shards.
    """

    def __init__(
        self, feed: Feed, *, unique: bool = True, owners: Mapping[str, int] | None = None
    ) -> None:
        self._feed = feed
        self._unique = unique
        self._owners: Mapping[str, int] = owners or {}
        self._copies: dict[str, list[int]] = {}
        self._known: dict[int, ShardCatalog] = {}
        self._owner: dict[str, str] = {}

    def known(self, shard: int) -> ShardCatalog | None:
        """The shard's header if it was read already; reads nothing."""
        return self._known.get(shard)

    def in_pass(self, number: int, shard: int) -> ShardCatalog:
        """The shard's header, read in a running pass that reads all blocks of the shard.

        Blocks that hold nothing but the header are marked consumed. The block in which the first
        tensor begins is not: the pass copies from it later.

        Raises:
            CorruptCheckpoint: the shard is not a safetensors file, or repeats another shard's name.
        """
        known = self._known.get(shard)
        if known is not None:
            return known
        part = _PartialHeader(self._feed, shard)
        while (block := part.next_block()) is not None:
            self._feed.wait(number, shard, block)
            part.take(block)
            if part.fills(block):
                self._feed.consumed(number, shard, block)
        return self._learn(shard, part)

    def in_view(self, shard: int) -> ShardCatalog | None:
        """The header of a shard that is mapped as a whole, read outside any pass.

        Returns:
            The header; None if the shard cannot be mapped any more.

        Raises:
            CorruptCheckpoint: the shard is not a safetensors file, or repeats another shard's name.
        """
        known = self._known.get(shard)
        if known is not None:
            return known
        part = _PartialHeader(self._feed, shard)
        while (block := part.next_block()) is not None:
            if self._feed.mapped(shard, block, block + 1) is None:
                return None
            part.take(block)
        return self._learn(shard, part)

    def all(self) -> tuple[ShardCatalog, ...]:
        """Every shard's header; those not known yet are read in passes of their own.

        The first pass reads the first block of each shard. Further passes read the rest of headers
        that are longer than a block. One pass reads several shards' headers as long as these have
        at most `MAX_HEADER_BYTES` together, so that a hostile checkpoint cannot fill the memory.
        Real checkpoints need at most one such pass.
        """
        unknown = [shard for shard in range(len(self._feed.shards)) if shard not in self._known]
        parts = {shard: _PartialHeader(self._feed, shard) for shard in unknown}
        self._collect(parts, [part.first_range() for part in parts.values()])
        for group in _groups(parts):
            self._collect(parts, [parts[shard].rest_range() for shard in group])
            for shard in group:
                self._learn(shard, parts.pop(shard))
        return tuple(self._known[shard] for shard in range(len(self._feed.shards)))

    def _collect(self, parts: dict[int, _PartialHeader], ranges: list[BlockRange]) -> None:
        order = [item for item in ranges if item.start < item.stop]
        if not order:
            return
        number = self._feed.begin(order)
        try:
            for shard, start, stop in order:
                for block in range(start, stop):
                    self._feed.wait(number, shard, block)
                    parts[shard].take(block)
                    self._feed.consumed(number, shard, block)
        finally:
            self._feed.end(number)

    def _learn(self, shard: int, part: _PartialHeader) -> ShardCatalog:
        catalog = part.parsed()
        if self._unique:
            self._own(catalog)
        self._known[shard] = catalog
        return catalog

    def counts(self, name: str, place: int) -> bool:
        """Whether a copy of a tensor counts, as far as the known headers tell.

        Args:
            name: name of a tensor whose shard's header is known.
            place: the number of copies in earlier shards.
        """
        copies = self.copies(name)
        owner = self._owners.get(name)
        return owner not in copies or copies.index(owner) >= place

    def copies(self, name: str) -> Sequence[int]:
        """The shards, in their order, known to hold a name; empty if only one holds it."""
        return sorted(self._copies.get(name, ()))

    def _own(self, catalog: ShardCatalog) -> None:
        """Note the shard of each name, or refuse the shard and note none.

        As there may be a million names, this builds no other collection of them than the dict.
        """
        owner = self._owner
        repeated = [entry.name for entry in catalog.entries if entry.name in owner]
        name = min((name for name in repeated if name not in self._owners), default=None)
        if name is not None:
            first, second = (
                printable(uri, MAX_SOURCE_CHARACTERS) for uri in (owner[name], catalog.uri)
            )
            raise CorruptCheckpoint(
                f"tensor {printable(name)} is in two shards, {first} and {second}; one of them is "
                "left over from another checkpoint: remove it, or name it out by the pattern"
            )
        if repeated:
            self._note_copies(repeated, catalog.uri)
        for entry in catalog.entries:
            owner[entry.name] = catalog.uri

    def _note_copies(self, names: Sequence[str], uri: str) -> None:
        """Note those names of a shard that earlier shards had too, and that the owners mention."""
        numbers = {shard.uri: number for number, shard in enumerate(self._feed.shards)}
        for name in names:
            self._copies.setdefault(name, [numbers[self._owner[name]]]).append(numbers[uri])


def _groups(parts: Mapping[int, _PartialHeader]) -> list[list[int]]:
    """The shards in order, in groups whose headers together have at most `MAX_HEADER_BYTES`."""
    groups: list[list[int]] = []
    sum_bytes = 0
    for shard, part in parts.items():
        sum_bytes += part.total_bytes
        if not groups or sum_bytes > MAX_HEADER_BYTES:
            groups.append([])
            sum_bytes = part.total_bytes
        groups[-1].append(shard)
    return groups


class _PartialHeader:
    """One shard's header while its bytes are collected, block by block."""

    def __init__(self, feed: Feed, shard: int) -> None:
        self._feed = feed
        self._shard = shard
        self._uri, self._size = feed.shards[shard]
        self._block_bytes = feed.block_bytes
        self._header = bytearray()
        self._total: int | None = None

    @property
    def total_bytes(self) -> int:
        """Length of the whole header; 0 until the first block was taken."""
        return self._total or 0

    def first_range(self) -> BlockRange:
        """The shard's first block, which tells the header's length; empty for an empty file."""
        return BlockRange(self._shard, 0, 1 if self._size else 0)

    def rest_range(self) -> BlockRange:
        """The header's blocks after the first; known once the first was taken."""
        past = blocks_of_bytes(0, self._total or 0, self._block_bytes)[1]
        return BlockRange(self._shard, min(1, past), past)

    def next_block(self) -> int | None:
        """The block that holds the header's next missing byte; None when the header is complete."""
        missing = bool(self._size) if self._total is None else len(self._header) < self._total
        return len(self._header) // self._block_bytes if missing else None

    def fills(self, block: int) -> bool:
        """Whether all bytes of the block belong to the header."""
        _, stop = block_span(block, self._size, self._block_bytes)
        return self._total is not None and stop <= self._total

    def take(self, block: int) -> None:
        """Read the header's bytes in `block`, which may be read now. Blocks are taken in order."""
        _, stop = block_span(block, self._size, self._block_bytes)
        if self._total is None:
            self._read(min(stop, FIRST_READ_BYTES))
            self._total = header_bytes(self._header[:LENGTH_BYTES], self._uri, self._size)
        self._read(min(stop, self._total))
        del self._header[self._total :]

    def _read(self, stop: int) -> None:
        start = len(self._header)
        if start < stop:
            more = bytearray(stop - start)
            self._feed.read_into([memoryview(more)], self._shard, start)
            self._header += more

    def parsed(self) -> ShardCatalog:
        """The complete header.

        Raises:
            CorruptCheckpoint: the bytes are not the header of a safetensors file.
        """
        if self._total is None:  # an empty file has no first block, so this raises
            self._total = header_bytes(b"", self._uri, self._size)
        return parse_header(self._header, self._uri, self._size)
