"""Exit codes of streamerctl (sysexits.h where it has one): a promise to scripts."""

from __future__ import annotations

from typing import Final

from streamer_client.contract.errors import ConfigError, DaemonUnavailable, StreamerError

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NO_DAEMON: Final = 69
BAD_CONFIG: Final = 78


def exit_code_of(error: StreamerError) -> int:
    """The exit code that an error ends with."""
    match error:
        case DaemonUnavailable():
            return NO_DAEMON
        case ConfigError():
            return BAD_CONFIG
        case _:
            return FAILED
