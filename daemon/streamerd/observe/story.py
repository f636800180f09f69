"""Tells each load in the log: one line when it opens, and one when it ends with where time went.

This module writes these two lines alone. `service/answers.py` logs that a load waits, when it tells
the client so. Runs in the daemon's loop.
"""

from __future__ import annotations

import logging

from streamerd.observe.record import Outcome, Phase, Record

logger = logging.getLogger(__name__)


class Story:
    """Writes the lines."""

    def opened(self, record: Record) -> None:
        """Log that a load was opened; for a prefetch at DEBUG, since its end tells enough."""
        level = logging.DEBUG if record.kind == "prefetch" else logging.INFO
        logger.log(
            level,
            "event=%s_opened source=%s load=%d pid=%d uid=%d label=%r shards=%d size_bytes=%d",
            record.kind, record.source, record.number, record.holder.pid, record.holder.uid,
            record.holder.label, record.shards, record.size_bytes,
        )  # fmt: skip

    def ended(self, record: Record, now_s: float) -> None:
        """Log that a load is over, and where its time went."""
        seconds, spent = record.seconds, record.spent_s
        rate = record.served_bytes / 1e9 / seconds if seconds else 0.0
        logger.log(
            _level(record.outcome),
            "event=%s source=%s load=%d pid=%d label=%r seconds=%.3f gb_per_s=%.2f served_bytes=%d "
            "read_bytes=%d from_memory_bytes=%d from_other_loads_bytes=%d "
            "from_other_nodes_bytes=%d waited_blocks_s=%.3f waited_memory_s=%.3f "
            "waited_credentials_s=%.3f open_s=%.3f error=%r",
            _event(record), record.source, record.number, record.holder.pid, record.holder.label,
            seconds, rate, record.served_bytes, record.read_bytes, record.resident_bytes,
            record.shared_bytes, record.peer_bytes, spent[Phase.BLOCKS], spent[Phase.MEMORY],
            spent[Phase.CREDENTIALS], now_s - record.opened_s, record.error,
        )  # fmt: skip


def _event(record: Record) -> str:
    word = {Outcome.ENDED: "done" if record.kind == "prefetch" else "ended"}
    return f"{record.kind}_{word.get(record.outcome, record.outcome.value)}"


def _level(outcome: Outcome) -> int:
    match outcome:
        case Outcome.FAILED | Outcome.REFUSED:
            return logging.ERROR
        case Outcome.GONE:
            return logging.WARNING
        case Outcome.ENDED | Outcome.RUNNING:
            return logging.INFO
