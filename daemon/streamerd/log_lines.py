"""How the daemon and its workers log: one event a line, whatever a client's text in it contains.

Owns the form of a line on stderr: plain text, or with `log_format = "json"` one JSON object. A name
or an error's text with a line end in it must not look like another line, nor may an escape sequence
reach the terminal that shows the log. The further lines of an event, such as a traceback, are
indented; its first line never is. Where stderr is systemd's journal, each line begins with its
priority (sd-daemon(3)), so that `journalctl -p warning` finds what it should. Used in the main
process and in the workers.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from streamer_client.contract.limits import MAX_LOGGED_CHARACTERS
from streamer_client.contract.printable import printable

_INDENT: Final = "    "
_LINES: Final = "further_lines"
_PLACE: Final = re.compile(r"(\w+)=(%(?:\.\d+)?[diorsfgx]|[^\s%]+)")
"""One `key=value` of a log call's text, with a place for an argument or a fixed value."""
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)
"""Levels of `logging` and what syslog(3) calls them."""


def stderr_handler(form: str, log_format: str = "text") -> logging.Handler:
    """Logs to stderr, safely.

    Args:
        form: the style of a plain line.
        log_format: `text` or `json`.
    """
    handler = logging.StreamHandler()
    formatter = JsonFormatter() if log_format == "json" else LineFormatter(form)
    handler.setFormatter(PriorityFormatter(formatter) if _is_journal(os.environ) else formatter)
    return handler


def last_words(text: str) -> str:
    """The line in which a program says why it ends, as it goes to stderr."""
    line = printable(text, MAX_LOGGED_CHARACTERS)
    return f"<{_priority(logging.ERROR)}>{line}\n" if _is_journal(os.environ) else f"{line}\n"


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


class JsonFormatter(logging.Formatter):
    """Formats an event as one JSON object: `time`, `level`, `logger`, `pid`, and its own keys.

    The keys come from the text of the log call, and their values keep their types. `pid` is the
    process that logs. Most events tell of another process, so an event's own key of one of the four
    names is told as `event_pid` and so on. A text that is not `key=value` throughout, as libraries
    write, becomes `message`.
    """

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
        }
        own = _fields(record) or {"message": record.getMessage()[:MAX_LOGGED_CHARACTERS]}
        told |= {f"event_{key}" if key in told else key: value for key, value in own.items()}
        lines = [getattr(record, _LINES, ""), record.stack_info or ""]
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        if below := "\n".join(filter(None, lines)):
            told["lines"] = below
        return json.dumps(told)


class PriorityFormatter(logging.Formatter):
    """Begins each line of another formatter's with the priority that the journal takes off."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_priority(record.levelno)}>"
        return "\n".join(prefix + line for line in self._inner.format(record).split("\n"))


def _priority(level: int) -> int:
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def _is_journal(environ: Mapping[str, str]) -> bool:
    """Whether stderr is the journal's socket; see systemd.exec(5), `$JOURNAL_STREAM`."""
    told = environ.get("JOURNAL_STREAM", "")
    if not told:
        return False
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return told == f"{found.st_dev}:{found.st_ino}"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """The keys and values of a log call; empty where its text has another form."""
    places = [_PLACE.fullmatch(word) for word in str(record.msg).split()]
    arguments = list(record.args) if isinstance(record.args, tuple) else []
    fields: dict[str, object] = {}
    for place in places:
        if place is None:
            return {}
        if not place[2].startswith("%"):
            fields[place[1]] = place[2]
        elif arguments:
            fields[place[1]] = _plain(arguments.pop(0))
        else:
            return {}
    return {} if arguments else fields


def _plain(value: object) -> object:
    if value is None or (isinstance(value, int | float) and math.isfinite(value)):
        return value  # JSON has no word for infinity, and none for what is no number
    return str(value)[:MAX_LOGGED_CHARACTERS]


def _indented(text: str) -> str:
    return "\n".join(_INDENT + printable(line, MAX_LOGGED_CHARACTERS) for line in text.split("\n"))
