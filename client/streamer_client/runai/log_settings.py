"""Run:ai's variables for logs, applied to this project's loggers.

This is the only place where the client configures logging, and only if a variable asks for it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Final, TextIO

from streamer_client.contract.limits import MAX_LOGGED_CHARACTERS
from streamer_client.contract.printable import printable

LEVEL_ENV: Final = "RUNAI_STREAMER_LOG_LEVEL"
STDERR_ENV: Final = "RUNAI_STREAMER_LOG_TO_STDERR"

CLIENT_LOGGER: Final = "streamer_client"
PLUGIN_LOGGER: Final = "streamer_vllm"
"""The plugin's logger, which passes its lines to vLLM's handlers; only its level is set here."""

TRACE: Final = 5

_LEVELS: Final[Mapping[str, int]] = {
    "TRACE": TRACE,
    "SPAM": TRACE,
    "DEBUG": logging.DEBUG,
    "VERBOSE": logging.DEBUG,
    "INFO": logging.INFO,
    "NOTICE": logging.INFO,
    "SUCCESS": logging.INFO,
    "WARNING": logging.WARNING,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
    "FATAL": logging.CRITICAL,
}

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"

logger = logging.getLogger(__name__)


def configure_logging(environ: Mapping[str, str]) -> None:
    """Set level and handler as the variables ask, or do nothing if they are not set. Idempotent."""
    named = environ.get(LEVEL_ENV, "").strip()
    level = _LEVELS.get(named.upper())
    to_stderr = environ.get(STDERR_ENV, "").strip() == "1"
    if level is not None:
        logging.getLogger(CLIENT_LOGGER).setLevel(level)
        logging.getLogger(PLUGIN_LOGGER).setLevel(level)
    if to_stderr:
        _send_to_stderr(logging.getLogger(CLIENT_LOGGER))
    if named and level is None:
        logger.warning(
            "event=unknown_log_level variable=%s value=%r known=%s",
            LEVEL_ENV,
            named,
            ",".join(_LEVELS),
        )


def _send_to_stderr(logger: logging.Logger) -> None:
    """Log only to stderr, as a handler of the application would repeat each line."""
    if any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        return
    handler = _StderrHandler(sys.stderr)
    handler.setFormatter(_LineFormatter(_FORMAT))
    logger.addHandler(handler)
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


class _LineFormatter(logging.Formatter):
    """Writes one event a line, so that a line end in a name begins no other event."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own name
        return printable(super().formatMessage(record), MAX_LOGGED_CHARACTERS)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """This module's own class of handler, by which a second call recognises it."""
