"""The user's options for the loaders: `--model-loader-extra-config` and a few variables.

Owns names, types, precedence (extra config over environment) and the errors. Pure: no vLLM, no
torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.options import LoadArguments, Mode, chosen_mode
from streamer_client.contract.uris import is_remote
from streamer_client.runai.settings import (
    CONCURRENCY_ENV,
    MEMORY_LIMIT_ENV,
    OBJECT_CONCURRENCY_ENV,
    checked_concurrency,
    checked_memory_limit,
    integer_variable,
)

SOCKET_ENV: Final = "STREAMERD_SOCKET"

_KEYS: Final = ("concurrency", "distributed", "memory_limit", "mode", "socket", "strict")
_SHARDED_KEYS: Final = (*_KEYS, "pattern")
_UNSHARDED_KEYS: Final = (*_KEYS, "slices")


class Slices(StrEnum):
    """Whether a rank fetches only its slices of tensors; the value is what users write."""

    AUTO = "auto"
    """Fetch slices if a rank keeps only a part of tensors."""
    OFF = "off"
    """Never fetch slices: tensors come whole."""


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one loader."""

    concurrency: int | None = None
    """How many reads run at once; None leaves the choice to the reader."""
    object_concurrency: int | None = None
    """The same for object stores, if the environment has a number of its own for them."""
    memory_limit_bytes: int = -1
    """-1 for no limit of the load's own, 0 for the smallest window that works, or a number."""
    pattern: str | None = None
    """The pattern of shards' names; None for vLLM's default for the parallel sizes."""
    distributed: bool = False
    """Accepted because Run:ai has it; the daemon reads once for all ranks anyway."""
    socket: str | None = None
    mode: Mode = Mode.AUTO
    slices: Slices = Slices.AUTO
    strict: bool = False
    """Whether a weight that the checkpoint lacks is an error; a sharded load is always strict."""

    def load_arguments(self, source: str, *, hold: bool) -> LoadArguments:
        """The user's options and `hold`, in the form that `Client.open` takes for a source."""
        own = self.object_concurrency if is_remote(source) else None
        return {
            "hold": hold,
            "memory_limit": self.memory_limit_bytes,
            "concurrency": self.concurrency if own is None else own,
        }


def parse_options(extra: object, environ: Mapping[str, str], *, sharded: bool) -> Options:
    """The settings of one loader.

    Args:
        extra: vLLM's `model_loader_extra_config`; None or an empty one sets nothing.
        environ: the process environment.
        sharded: whether this load format has the option `pattern`.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or range.
    """
    given = _checked_keys(extra, _SHARDED_KEYS if sharded else _UNSHARDED_KEYS)
    return Options(
        concurrency=_concurrency(given, environ, CONCURRENCY_ENV),
        object_concurrency=(
            None if "concurrency" in given else _concurrency(given, environ, OBJECT_CONCURRENCY_ENV)
        ),
        memory_limit_bytes=_memory_limit(given, environ),
        pattern=_text(given, "pattern"),
        distributed=_flag(given, "distributed"),
        socket=_text(given, "socket") or environ.get(SOCKET_ENV) or None,
        mode=chosen_mode(_text(given, "mode"), environ),
        slices=_slices(given),
        strict=_flag(given, "strict"),
    )


def _checked_keys(extra: object, known: tuple[str, ...]) -> Mapping[str, object]:
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise ConfigError(
            f"model_loader_extra_config is {extra!r}; write a JSON object such as "
            '{"concurrency": 16}'
        )
    for key in extra:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(
                f"model_loader_extra_config has the unknown key {key!r}{meant}; "
                f"known for this load format: {', '.join(sorted(known))}"
            )
    return extra


def _concurrency(
    given: Mapping[str, object], environ: Mapping[str, str], variable: str
) -> int | None:
    return checked_concurrency(*_integer(given, "concurrency", environ, variable))


def _memory_limit(given: Mapping[str, object], environ: Mapping[str, str]) -> int:
    return checked_memory_limit(*_integer(given, "memory_limit", environ, MEMORY_LIMIT_ENV))


def _integer(
    given: Mapping[str, object], key: str, environ: Mapping[str, str], variable: str
) -> tuple[int | None, str]:
    """The number, and the name of its origin for an error."""
    if key in given:
        value = given[key]
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{key} is {value!r}; it must be an integer")
        return value, key
    return integer_variable(environ, variable), variable


def _text(given: Mapping[str, object], key: str) -> str | None:
    value = given.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key} is {value!r}; it must be a non-empty string")
    return value


def _slices(given: Mapping[str, object]) -> Slices:
    value = given.get("slices", Slices.AUTO)
    if not isinstance(value, str) or value not in set(Slices):
        raise ConfigError(f"slices is {value!r}; it must be one of {', '.join(Slices)}")
    return Slices(value)


def _flag(given: Mapping[str, object], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is {value!r}; it must be true or false")
    return value
