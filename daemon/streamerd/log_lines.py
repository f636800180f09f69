"""How the daemon and its workers log: one event a line, whatever a client's text in it contains.

Owns the form of a line on stderr. A name or an error's text with a line end in it must not look
like another line, nor may an escape sequence reach the terminal that shows the log. The further
lines of an event, such as a traceback, are indented; its first line never is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from streamer_client.contract.limits import MAX_LOGGED_CHARACTERS
from streamer_client.contract.printable import printable

_INDENT: Final = "    "
_LINES: Final = "further_lines"


def stderr_handler(form: str) -> logging.Handler:
    """Logs to stderr in the style of `form`, safely."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(form))
    return handler


def with_lines(text: str) -> Mapping[str, str]:
    """The `extra` of a log call that shows a text of several lines below the event's own line."""
    return {_LINES: text}


class LineFormatter(logging.Formatter):
    """Formats an event as one printable line, and its further lines as indented ones."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        below = getattr(record, _LINES, "")
        return f"{line}\n{_indented(below)}" if below else line

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own name
        return printable(super().formatMessage(record), MAX_LOGGED_CHARACTERS)

    def formatException(self, ei: Any) -> str:  # noqa: N802  logging's own name
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  logging's own name
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return "\n".join(_INDENT + printable(line, MAX_LOGGED_CHARACTERS) for line in text.split("\n"))
