"""The mode of a load: whether a daemon is used, must be used, or is left alone. Pure.

Owns INTERFACE's `mode` and `STREAMERD_MODE`: their values, their defaults, and which of the two
counts. What each mode does is the work of the modules that ask: `launch.py` for a client, the
plugin for vLLM's loaders.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from streamer_client.contract.errors import ConfigError

MODE_ENV: Final = "STREAMERD_MODE"


class Mode(StrEnum):
    """How a process gets at checkpoints; the value is what users write."""

    AUTO = "auto"
    """A running daemon, else one started for this user, else no daemon."""
    REQUIRED = "required"
    """A running daemon, or an error."""
    DIRECT = "direct"
    """No daemon: this process reads for itself."""
    OFF = "off"
    """vLLM keeps its own loaders. A client that is made all the same reads directly and starts
    nothing."""


CONNECT_DEFAULT: Final = Mode.REQUIRED
"""Of `streamer_client.connect`: a script that connects wants the daemon, and is told where there is
none. Everything else takes `auto`."""


def chosen_mode(named: str | None, environ: Mapping[str, str], default: Mode = Mode.AUTO) -> Mode:
    """The mode that a caller named, else the environment's, else the default.

    Args:
        named: what the caller's own option says; None or empty where it says nothing.
        environ: the process's environment.
        default: where neither says anything.

    Raises:
        ConfigError: there is no such mode; the text names who asked for it and the known ones.
    """
    text = named or environ.get(MODE_ENV) or default
    try:
        return Mode(text)
    except ValueError:
        where = "mode" if named else MODE_ENV
        known = ", ".join(Mode)
        raise ConfigError(f"{where} is {text!r}; it must be one of {known}") from None
