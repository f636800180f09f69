"""Every counter of a daemon at one moment: metrics, status and report, compared with each other."""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from streamer_client.contract.messages import GetReport, GetStatus, Report, Status
from streamer_client.contract.status import StatusDocument, parse_status
from streamerd.observe.document import ReportDocument, parse_report
from tests.support.daemon import DaemonProcess
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually

Labels = tuple[str, ...]

ONE_ORIGIN: Final = {"copied_page_cache_bytes": "page_cache", "copied_direct_bytes": "direct"}
"""Totals that are the part of `copied_bytes` with one label in the metrics."""
UP_ONLY: Final = ("_total", "_bucket", "_count", "_sum")


@dataclass(frozen=True)
class Told:
    """The metrics, status and report of a daemon at one moment."""

    samples: dict[tuple[str, Labels], float]
    status: StatusDocument
    report: ReportDocument

    def sum(self, name: str) -> float:
        """A metric's value, or the sum over its labels."""
        found = (value for (called, _), value in self.samples.items() if called == name)
        return sum(found)

    def labelled(self, name: str) -> dict[Labels, float]:
        """A metric's values that are not zero, by its labels."""
        return {
            labels: value
            for (called, labels), value in self.samples.items()
            if called == name and value
        }


@dataclass
class Counters:
    """Looks repeatedly at a daemon that serves metrics at a Unix socket."""

    daemon: DaemonProcess
    metrics: Path
    last: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def agree(self) -> Told:
        """Wait until all three sources agree, and compare them with the last look."""
        return eventually(self._agreed)

    def restarted(self) -> None:
        """Note that the daemon was started again, so that its counters begin anew."""
        self.last = {}

    def _agreed(self) -> Told:
        told = self._look()
        _same_totals(told)
        _same_memory(told)
        _same_loads(told)
        for key, value in self.last.items():
            if key[0].endswith(UP_ONLY):
                assert told.samples.get(key, 0) >= value, f"{key} went back"
        self.last = told.samples
        return told

    def _look(self) -> Told:
        samples = self._scraped()
        with RawClient(self.daemon.socket, "counters") as client:
            status = client.request(GetStatus(client.next_id()), Status).body
            report = client.request(GetReport(client.next_id()), Report).body
        return Told(samples, parse_status(status), parse_report(report))

    def _scraped(self) -> dict[tuple[str, Labels], float]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.metrics))
            connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        return {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(answer.decode().partition("\r\n\r\n")[2])
            for sample in family.samples
        }


def _same_totals(told: Told) -> None:
    totals = told.status.totals
    for name in totals.__struct_fields__:
        value = getattr(totals, name)
        if origin := ONE_ORIGIN.get(name):
            found = told.samples["streamerd_copied_bytes_total", (origin,)]
        else:
            found = told.sum(f"streamerd_{name}_total")
        assert found == value, name
    assert told.sum("streamerd_retries_total") >= 0
    assert all(value >= 0 for value in told.samples.values())


def _same_memory(told: Told) -> None:
    memory = told.status.memory
    for name in memory.__struct_fields__:
        assert told.sum(f"streamerd_memory_{name}") == getattr(memory, name), name
    shards = told.status.shards().values()
    leased = [shard for shard in shards if shard.leases]
    assert memory.leased_bytes == sum(shard.resident_bytes for shard in leased)
    assert memory.pinned_bytes == sum(shard.resident_bytes for shard in shards if shard.pinned)
    assert told.samples["streamerd_loads_waiting", ("memory",)] == len(told.status.waiting)
    assert told.sum("streamerd_workers") == len(told.status.workers)


def _same_loads(told: Told) -> None:
    """Check that the report has all loads since the start, unless it has dropped old ones."""
    over = [load for load in told.report.loads if load.outcome != "running"]
    counted = Counter((load.kind, load.outcome) for load in over)
    assert told.labelled("streamerd_loads_total") == counted
    assert told.sum("streamerd_loads_running") == (
        len(told.report.loads) - len(over) - len(told.status.waiting)
    )
    served_bytes = sum(load.served_bytes for load in told.report.loads)
    assert served_bytes == told.status.totals.served_bytes
    assert told.sum("streamerd_load_bytes_total") == sum(load.served_bytes for load in over)
    assert (
        told.sum("streamerd_load_seconds_count")
        == counted["load", "ended"] + (counted["prefetch", "ended"])
    )
    read_bytes = sum(load.read_bytes for load in told.report.loads)
    assert read_bytes <= told.status.totals.source_read_bytes
