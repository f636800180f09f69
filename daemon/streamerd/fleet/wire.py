"""The protocol between nodes: paths, headers and their bounds. Pure.

A request is a GET (or HEAD) of `/v1/FLEET/SHARD` with a range that is exactly one block. SHARD is a
digest of URI, endpoint and validator. So a node has no such path if it has another content of the
object or does not know the object. `fetch/` asks, `serve/` answers.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final, NamedTuple

from streamer_client.storage.contract import StoredShard

CHECKSUM: Final = "x-fleet-checksum"
"""The block's XXH3-64 in 16 hexadecimal digits, in answers that bring or describe a block."""
NODE: Final = "x-fleet-node"
"""The address at which the asking node itself serves blocks: its name in the fleet."""
WAIT: Final = "x-fleet-wait"
"""Seconds for which the answer may be delayed until the block is in memory."""
HOLDS: Final = "x-fleet-holds"
"""Header of a 503. 1 says that the node has the block and is busy, or reads it from the store just
now, so that waiting for it is worthwhile. 0 says that it may be waiting for another node itself."""
LOADS: Final = "x-fleet-loads"
"""Header of a 404: 1 if the node has the shard open, so that it may be asked for other blocks."""
LONGEST_WAIT_S: Final = 5.0

_PATH: Final = re.compile(r"/v1/([A-Za-z0-9-]{1,63})/([0-9a-f]{40})")
_RANGE: Final = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})")
_CHECKSUM: Final = re.compile(r"[0-9a-f]{16}")


class Asked(NamedTuple):
    """The block that a request asks for."""

    fleet: str
    shard: str
    start: int
    stop: int


def shard_name(shard: StoredShard) -> str:
    """The digest that names one content of one object. The shard's identity has the endpoint."""
    told = f"{shard.uri}\0{shard.identity}\0{shard.size_bytes}"
    return blake2b(told.encode(), digest_size=20).hexdigest()


def block_path(fleet: str, shard: str) -> str:
    """The path at which a shard's blocks are asked for."""
    return f"/v1/{fleet}/{shard}"


def block_range(start: int, stop: int) -> str:
    """The value of `Range` for a block."""
    return f"bytes={start}-{stop - 1}"


def parse_asked(path: str, wanted: str) -> Asked | None:
    """The block that a request's path and range name; None if they do not name one."""
    named, ranged = _PATH.fullmatch(path), _RANGE.fullmatch(wanted)
    if named is None or ranged is None:
        return None
    start, stop = int(ranged[1]), int(ranged[2]) + 1
    return Asked(named[1], named[2], start, stop) if start < stop else None


def parse_wait_s(value: str) -> float:
    """Seconds for which an answer may be delayed, within the bound; 0.0 if `value` is no number."""
    try:
        wait_s = float(value)
    except ValueError:
        return 0.0
    return min(wait_s, LONGEST_WAIT_S) if wait_s > 0.0 else 0.0


def checksum_text(checksum: int) -> str:
    """A checksum as the text of a header."""
    return f"{checksum:016x}"


def parse_checksum(value: str) -> int | None:
    """The checksum in the text of a header; None if the text is malformed."""
    return int(value, 16) if _CHECKSUM.fullmatch(value) else None
