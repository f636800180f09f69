"""Prints streamerctl's answers: rich consoles for stdout and stderr, and exit codes.

Scripts rely on the exit codes; two of them are those of sysexits.h.

There is colour only on a terminal, and never with NO_COLOR; both are rich's own rules. Output into
a pipe is as wide as COLUMNS says, else 120 characters, since a pipe has no screen to fit, and names
should not be cut. Other people chose the names, labels and errors that are shown, so these go
through `one_line`, and rich never takes them for markup.
"""

from __future__ import annotations

import os
import sys
from typing import Final, TextIO

from rich.console import Console

from streamer_client.contract.errors import ConfigError, DaemonUnavailable, StreamerError
from streamer_client.contract.limits import MAX_LOGGED_CHARACTERS
from streamer_client.contract.printable import printable

_PIPE_WIDTH: Final = 120

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NO_DAEMON: Final = 69
BAD_CONFIG: Final = 78


def one_line(text: str) -> str:
    """A text that somebody else chose, as one line without control characters for the terminal."""
    return printable(text, MAX_LOGGED_CHARACTERS)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise, so that the program ends quietly with 0; rich would exit with 1."""
        raise BrokenPipeError


def console(stream: TextIO | None = None) -> Console:
    """A console on stdout, or on another stream."""
    file = stream or sys.stdout
    width = None if file.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return _Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def exit_code_of(error: StreamerError) -> int:
    """The exit code with which the program ends after an error."""
    match error:
        case DaemonUnavailable():
            return NO_DAEMON
        case ConfigError():
            return BAD_CONFIG
        case _:
            return FAILED
