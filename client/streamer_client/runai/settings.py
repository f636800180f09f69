"""Settings of a stream from the variables of Run:ai and of this project. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.limits import MAX_NUMBER
from streamer_client.contract.options import Mode, chosen_mode
from streamer_client.contract.uris import is_remote

CONCURRENCY_ENV: Final = "RUNAI_STREAMER_CONCURRENCY"
OBJECT_CONCURRENCY_ENV: Final = "RUNAI_STREAMER_OBJ_CONCURRENCY"
MEMORY_LIMIT_ENV: Final = "RUNAI_STREAMER_MEMORY_LIMIT"


def integer_variable(environ: Mapping[str, str], variable: str) -> int | None:
    """The number in a variable; None if it is unset or empty.

    Raises:
        ConfigError: the value is not an integer.
    """
    text = environ.get(variable, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{variable} is {text!r}; it must be an integer") from error


def checked_concurrency(number: int | None, origin: str) -> int | None:
    """Check the number of simultaneous reads and return it.

    Raises:
        ConfigError: the number is not positive, or more than any machine has; the text names
            `origin`.
    """
    if number is not None and number <= 0:
        raise ConfigError(f"{origin} is {number}; it must be a positive integer")
    if number is not None and number > MAX_NUMBER:
        raise ConfigError(f"{origin} is {number}; it must be below 2^63")
    return number


def checked_memory_limit(number: int | None, origin: str) -> int:
    """How many bytes a load may hold at once; -1, the default, is no limit of its own.

    A number larger than any memory counts as no limit, as in Run:ai's streamer.

    Raises:
        ConfigError: the number is less than -1; the text names `origin`.
    """
    if number is None:
        return -1
    if number < -1:
        raise ConfigError(
            f"{origin} is {number}; it must be an integer >= -1: "
            "-1 for no limit, 0 for the smallest that works, or bytes"
        )
    return min(number, MAX_NUMBER)


def concurrency(environ: Mapping[str, str], source: str) -> int | None:
    """How many simultaneous reads of a source the environment asks for; None if it does not."""
    own = _positive(environ, OBJECT_CONCURRENCY_ENV) if is_remote(source) else None
    return _positive(environ, CONCURRENCY_ENV) if own is None else own


def _positive(environ: Mapping[str, str], variable: str) -> int | None:
    return checked_concurrency(integer_variable(environ, variable), variable)


def memory_limit(environ: Mapping[str, str], given_bytes: int | None) -> tuple[int, str]:
    """How many bytes a load may hold at once, or -1, and the option or variable that says so.

    Args:
        environ: the process's environment.
        given_bytes: the caller's option, which wins; None if it is not given.

    Raises:
        ConfigError: the variable is not a number.
    """
    if given_bytes is not None:
        return given_bytes, "memory_limit"
    number = integer_variable(environ, MEMORY_LIMIT_ENV)
    return (-1 if number is None else min(number, MAX_NUMBER)), MEMORY_LIMIT_ENV


def mode(environ: Mapping[str, str]) -> Mode:
    """The mode of reading. For vLLM's plugin `off` has another meaning; here it means: no daemon.

    Raises:
        ConfigError: there is no such mode.
    """
    chosen = chosen_mode(None, environ)
    return Mode.DIRECT if chosen is Mode.OFF else chosen
