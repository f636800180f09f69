"""Brings log lines of plugin and client into vLLM's log, with `streamerd` and the rank.

vLLM configures only loggers below its own. Without this module, a warning of the client would come
out without level or rank, and an INFO line of the plugin not at all. So both loggers pass their
records to vLLM's. Of the client's lines, only warnings and the start of a daemon are shown.
Run:ai's variables ask for more (`streamer_client.runai.log_settings`). Runs in every vLLM process.
"""

from __future__ import annotations

import logging
from typing import Final

from streamer_client.runai.log_settings import CLIENT_LOGGER, PLUGIN_LOGGER
from streamer_vllm.ranks import global_rank

VLLM_LOGGER: Final = "vllm"
ANNOUNCED: Final = "event=daemon_started"
"""The client's INFO line that every user of vLLM should see: a daemon was started, and its log."""


class ToVllm(logging.Handler):
    """Passes records to vLLM's logger, if that logs their level."""

    def emit(self, record: logging.LogRecord) -> None:
        target = logging.getLogger(VLLM_LOGGER)
        if not target.isEnabledFor(record.levelno):
            return
        shown = logging.makeLogRecord(record.__dict__)
        shown.msg = f"streamerd: rank={global_rank()} {record.getMessage()}"
        shown.args = None
        target.handle(shown)


def _worth_showing(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or str(record.msg).startswith(ANNOUNCED)


def join_vllms_log() -> None:
    """Pass both loggers' records to vLLM's logger. Idempotent.

    A logger that already has a handler was configured by the user, or by Run:ai's variables, and is
    left as it is.
    """
    for name in (CLIENT_LOGGER, PLUGIN_LOGGER):
        joined = logging.getLogger(name)
        if joined.handlers:
            continue
        handler = ToVllm()
        if name == CLIENT_LOGGER:
            handler.addFilter(_worth_showing)
        joined.addHandler(handler)
        joined.propagate = False  # as vLLM's: a root handler would repeat each line
        if joined.level == logging.NOTSET:
            joined.setLevel(logging.INFO)
