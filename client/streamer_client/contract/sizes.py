"""Byte sizes as people write them: `64GiB`, `500MB`, plain bytes; and numbers of shards.

Owns the text form of sizes, both ways; the daemon, streamerctl and the shard writer use it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_BINARY: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_FACTORS: Final = {unit.lower(): 1024**power for power, unit in enumerate(_BINARY)} | {
    unit.lower(): 1000**power for power, unit in enumerate(("B", "KB", "MB", "GB", "TB", "PB"))
}
_SIZE: Final = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*", re.ASCII)


def parse_size(text: object) -> int:
    """The bytes of a size, given as text or a whole number; `GiB` counts in 1024s, `GB` in 1000s.

    Raises:
        ValueError: the value is not a size, or not a whole number of bytes.
    """
    is_size = isinstance(text, str | int) and not isinstance(text, bool)
    match = _SIZE.fullmatch(str(text)) if is_size else None
    factor = _FACTORS.get((match["unit"] or "b").lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is not a size")
    size_bytes = Decimal(match["number"]) * factor
    if size_bytes != int(size_bytes):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(size_bytes)


def format_size(size_bytes: int) -> str:
    """A size for reading: three significant digits in binary units, whole bytes below 1 KiB."""
    value, power = float(size_bytes), 0
    while value >= 999.5 and power < len(_BINARY) - 1:
        value, power = value / 1024, power + 1
    if power == 0:
        return f"{size_bytes} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_BINARY[power]}"


def exact_size(size_bytes: int) -> str:
    """A size that `parse_size` reads back unchanged, in the largest unit that divides it."""
    power = 0
    while size_bytes and size_bytes % 1024 == 0 and power < len(_BINARY) - 1:
        size_bytes, power = size_bytes // 1024, power + 1
    return f"{size_bytes}{_BINARY[power]}" if power else str(size_bytes)


def shards_word(number: int) -> str:
    """The number with its noun: `1 shard`, `2 shards`."""
    return "1 shard" if number == 1 else f"{number} shards"
