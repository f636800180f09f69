"""Names of shards: which match a pattern, their order, and their form in errors.

All kinds of source share this. Pure.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Final

DEFAULT_PATTERN: Final = "*.safetensors"

_DIGITS: Final = re.compile(r"([0-9]+)")
_SHOWN_NAMES: Final = 8


def natural_key(name: str) -> tuple[tuple[str | tuple[int, str], ...], str]:
    """A sort key that puts `part-2` before `part-10`; the name itself breaks ties.

    Numbers are compared by their length, then as text, because `int` refuses more than some 4300
    digits, and a server may list any name.
    """

    def number(digits: str) -> tuple[int, str]:
        significant = digits.lstrip("0")
        return len(significant), significant

    parts = _DIGITS.split(name)
    return tuple(number(part) if place % 2 else part for place, part in enumerate(parts)), name


def select(names: Iterable[str], pattern: str) -> list[str]:
    """The names that match a glob, in natural order.

    As in a shell, case counts, and only a pattern that starts with a dot matches hidden names. Some
    systems leave a `._model.safetensors` beside each file, which is no shard.
    """
    hidden = pattern.startswith(".")
    taken = (name for name in names if hidden or not name.startswith("."))
    return sorted((name for name in taken if fnmatch.fnmatchcase(name, pattern)), key=natural_key)


def some_of(names: Sequence[str]) -> str:
    """The first few names and the number of the others, for the text of an error."""
    if not names:
        return "nothing at all"
    ordered = sorted(names, key=natural_key)
    more = f" and {len(ordered) - _SHOWN_NAMES} more" if len(ordered) > _SHOWN_NAMES else ""
    return ", ".join(ordered[:_SHOWN_NAMES]) + more
