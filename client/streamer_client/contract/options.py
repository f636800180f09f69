"""The user's choices: the mode of a process, and the options of a load. Pure.

Owns `mode` and `STREAMERD_MODE`: their values, their defaults, and which of the two counts. Owns
`LoadOptions` too: the names, defaults and bounds of what a caller may ask of one load. A
`LoadOptions` travels whole, from the caller through `Open` to the daemon's core. So only the code
that acts on an option names it. The callers carry out what each mode means: `launch.py` for a
client, the plugin for vLLM's loaders.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypedDict

import msgspec

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.limits import MAX_NUMBER

MODE_ENV: Final = "STREAMERD_MODE"


class Mode(StrEnum):
    """How a process reads checkpoints; the value is what users write."""

    AUTO = "auto"
    """Use a running daemon, or else one started for this user, or else none."""
    REQUIRED = "required"
    """Use a running daemon, or raise an error."""
    DIRECT = "direct"
    """Use no daemon: this process reads for itself."""
    OFF = "off"
    """Leave vLLM its own loaders. A client that is made nevertheless reads directly and starts
    nothing."""


CONNECT_DEFAULT: Final = Mode.REQUIRED
"""The default of `streamer_client.connect`: a script that connects wants the daemon, and an error
if none runs. Everything else takes `auto`."""


def chosen_mode(named: str | None, environ: Mapping[str, str], default: Mode = Mode.AUTO) -> Mode:
    """The mode that a caller named, or else the environment's, or else the default.

    Args:
        named: the value of the caller's own option; None or empty if it is not set.
        environ: the process's environment.
        default: the mode when neither names one.

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


# --- options of a load --------------------------------------------------------------------------


class LoadArguments(TypedDict, total=False):
    """The options that a caller may give for a load; see `LoadOptions` for each."""

    hold: bool
    memory_limit: int
    concurrency: int | None


class LoadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one load is to be served, by the daemon or in the client's own process."""

    hold: bool = True
    """Whether whole shards stay resident as long as views of them live. If False, or if they do not
    fit, tensors are private copies, memory is given back on the way, and nothing is read before a
    pass wants it."""
    memory_limit: int = -1
    """How many bytes this load may hold at once; -1 for no limit, 0 for the least."""
    concurrency: int | None = None
    """How many reads run at once; for an object store, how many connections."""

    def check(self) -> None:
        """Check each option against its bounds; both sides of the wire call this.

        Raises:
            ConfigError: a value is out of its range; the text names it.
        """
        if not -1 <= self.memory_limit <= MAX_NUMBER:
            raise ConfigError(
                f"memory_limit is {self.memory_limit}; it is -1, 0 or a number of bytes below 2^63"
            )
        if self.concurrency is not None and not 1 <= self.concurrency <= MAX_NUMBER:
            raise ConfigError(
                f"concurrency is {self.concurrency}; it is a positive number of reads below 2^63"
            )
