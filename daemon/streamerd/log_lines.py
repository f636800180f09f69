"""Formats the log of the daemon and its workers: one event a line, whatever texts it contains.

This module owns the form of a line on stderr: plain text, or with `log_format = "json"` one JSON
object. Names and error texts come from others: a line end in them must not begin a new line, and an
escape sequence must not reach a terminal. The first line of an event is never indented; further
lines, such as a traceback, always are. If stderr is systemd's journal, each line begins with its
priority (sd-daemon(3)), so that `journalctl -p warning` works. Used in the main process and in the
workers.
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
"""Matches one `key=value` in the text of a log call, where the value is a placeholder or fixed."""
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)
"""The priority of syslog(3) for each level of `logging`."""


def stderr_handler(form: str, log_format: str = "text") -> logging.Handler:
    """Make the handler that logs to stderr, in safe lines.

    Args:
        form: the format string of a plain line.
        log_format: `text` or `json`.
    """
    handler = logging.StreamHandler()
    formatter = JsonFormatter() if log_format == "json" else LineFormatter(form)
    handler.setFormatter(PriorityFormatter(formatter) if _is_journal(os.environ) else formatter)
    return handler


def last_words(text: str) -> str:
    """Format the last line on stderr, in which a program says why it ends."""
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
    process that logs. Many events are about another process, so an event's own key with one of
    these four names is renamed to `event_pid` and so on. A text that does not only consist of
    `key=value`, such as one of a library, becomes `message`.
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
    """Puts the priority before each line of another formatter; the journal removes it again."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_priority(record.levelno)}>"
        return "\n".join(prefix + line for line in self._inner.format(record).split("\n"))


def _priority(level: int) -> int:
    return next((number for least, number in _PRIORITIES if level >= least), 7)


def _is_journal(environ: Mapping[str, str]) -> bool:
    """Whether stderr is the journal's socket; see `$JOURNAL_STREAM` in systemd.exec(5)."""
    told = environ.get("JOURNAL_STREAM", "")
    if not told:
        return False
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # stderr is closed, or is no file at all
        return False
    return told == f"{found.st_dev}:{found.st_ino}"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """The keys and values of a log call; empty if its text has another form."""
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
        return value  # JSON cannot express infinity or NaN
    return str(value)[:MAX_LOGGED_CHARACTERS]


def _indented(text: str) -> str:
    return "\n".join(_INDENT + printable(line, MAX_LOGGED_CHARACTERS) for line in text.split("\n"))
