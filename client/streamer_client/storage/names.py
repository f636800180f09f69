"""Names of shards: which ones a pattern takes, their order, and how errors list them.

Shared by all kinds of source. Pure.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Final

DEFAULT_PATTERN: Final = "*.safetensors"

_DIGITS: Final = re.compile(r"([0-9]+)")
_SHOWN_NAMES: Final = 8


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key that puts `part-2` before `part-10`; total, since the name itself breaks ties."""
    parts = _DIGITS.split(name)
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


def select(names: Iterable[str], pattern: str) -> list[str]:
    """Names that the glob takes, in natural order.

    As in a shell, case counts and a hidden name is taken only by a pattern that starts with a dot:
    `._model.safetensors`, which some systems leave beside each file, is no shard.
    """
    hidden = pattern.startswith(".")
    taken = (name for name in names if hidden or not name.startswith("."))
    return sorted((name for name in taken if fnmatch.fnmatchcase(name, pattern)), key=natural_key)


def told(names: Sequence[str]) -> str:
    """A short list of names for the text of an error."""
    if not names:
        return "nothing at all"
    ordered = sorted(names, key=natural_key)
    more = f" and {len(ordered) - _SHOWN_NAMES} more" if len(ordered) > _SHOWN_NAMES else ""
    return ", ".join(ordered[:_SHOWN_NAMES]) + more
