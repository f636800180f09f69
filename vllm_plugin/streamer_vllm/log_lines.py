"""The plugin's and the client's log lines, among vLLM's: same form, with `streamerd` and the rank.

vLLM configures what is below its own logger and nothing else: a warning of the client would come
out without level or rank, and an INFO line of the plugin not at all. So both loggers hand
their records to vLLM's. Of the client, warnings and the start of a daemon are shown; more is asked
for by Run:ai's variables (`streamer_client.runai.log_settings`). Runs in every vLLM process.
"""

from __future__ import annotations

import logging
from typing import Final

from streamer_client.runai.log_settings import CLIENT_LOGGER, PLUGIN_LOGGER
from streamer_vllm.ranks import global_rank

VLLM_LOGGER: Final = "vllm"
ANNOUNCED: Final = "event=daemon_started"
"""What the client says at INFO and every user of vLLM should see: who runs now, and its log."""


class ToVllm(logging.Handler):
    """Hands records to vLLM's logger, if that logs their level."""

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
    """Hand both loggers' records to vLLM's logger. Idempotent.

    A logger that has a handler already was configured by the user, or by Run:ai's variables, and is
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
        joined.propagate = False  # vLLM's does not either: a root handler would repeat each line
        if joined.level == logging.NOTSET:
            joined.setLevel(logging.INFO)
