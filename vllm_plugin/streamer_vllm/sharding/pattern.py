"""The names of shard files, which tell the rank of each file.

Owns the patterns, their rules and their errors, after vLLM's `sharded_state` format. Pure: no
vLLM. A pattern is a format string with `{rank}` or `{tp_rank}` (the same number), `{pp_rank}` and
`{part}`; `{{` and `}}` stand for braces.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Final

from streamer_client.contract.errors import ConfigError

TP_PATTERN: Final = "model-rank-{rank}-part-{part}.safetensors"
PP_TP_PATTERN: Final = "model-pp-{pp_rank}-tp-{tp_rank}-part-{part}.safetensors"

_FIELDS: Final = ("pp_rank", "tp_rank", "rank", "part")


@dataclass(frozen=True, slots=True)
class Place:
    """One rank's place among the tensor- and pipeline-parallel ranks."""

    tp_rank: int
    tp_size: int
    pp_rank: int = 0
    pp_size: int = 1


class _AnyPart(str):
    """Stands for every part, in whatever width the pattern asks for."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return "*"


def default_pattern(place: Place) -> str:
    """The pattern that vLLM chooses by default."""
    return PP_TP_PATTERN if place.pp_size > 1 else TP_PATTERN


def file_glob(pattern: str | None, place: Place) -> str:
    """A glob that matches every part of this rank's shard.

    Raises:
        ConfigError: the pattern is malformed or cannot tell the ranks apart.
    """
    return _render(pattern, place, _AnyPart("*"))


def file_name(pattern: str | None, place: Place, part: int) -> str:
    """The name of the file to write one part to.

    Raises:
        ConfigError: as in `file_glob`, or the pattern cannot tell the parts apart.
    """
    if pattern is not None and "part" not in _fields(pattern):
        raise ConfigError(
            f"the pattern {pattern!r} has no {{part}}, so all parts would go to one file; add it"
        )
    return _render(pattern, place, part)


def _render(pattern: str | None, place: Place, part: int | str) -> str:
    chosen = default_pattern(place) if pattern is None else pattern
    _check(chosen, _fields(chosen), place)
    try:
        return chosen.format(
            pp_rank=place.pp_rank, tp_rank=place.tp_rank, rank=place.tp_rank, part=part
        )
    except (ValueError, LookupError, AttributeError) as error:
        raise ConfigError(f"the pattern {chosen!r} cannot be rendered: {error}") from error


def _fields(pattern: str) -> set[str]:
    try:
        return {field for _, field, _, _ in string.Formatter().parse(pattern) if field is not None}
    except ValueError as error:
        raise ConfigError(
            f"the pattern {pattern!r} is malformed: {error}; write {{{{ and }}}} for plain braces"
        ) from error


def _check(pattern: str, fields: set[str], place: Place) -> None:
    unknown = sorted(fields - set(_FIELDS))
    if unknown:
        raise ConfigError(
            f"the pattern {pattern!r} uses {{{'}, {'.join(unknown)}}}; "
            f"known: {{{'}, {'.join(_FIELDS)}}}"
        )
    if place.pp_size > 1 and "pp_rank" not in fields:
        raise ConfigError(
            f"the pattern {pattern!r} has no {{pp_rank}}, so all {place.pp_size} pipeline stages "
            f"would share one file; {PP_TP_PATTERN!r} is the default"
        )
    if place.pp_size == 1 and "pp_rank" in fields:
        raise ConfigError(
            f"the pattern {pattern!r} has {{pp_rank}}, but the pipeline-parallel size is 1; "
            f"{TP_PATTERN!r} is the default"
        )
    if place.tp_size > 1 and not fields & {"tp_rank", "rank"}:
        raise ConfigError(
            f"the pattern {pattern!r} has neither {{rank}} nor {{tp_rank}}, so all "
            f"{place.tp_size} tensor-parallel ranks would share one file"
        )
