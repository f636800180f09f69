"""Metrics of a real daemon after real loads, read by the library's own parser and by promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from socket import create_server

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streamer_client.client import daemon_client
from streamer_client.contract.errors import SourceNotFound
from streamer_client.contract.limits import MAX_NUMBER
from streamer_client.contract.messages import Copied
from streamer_client.contract.status import FleetStatus
from streamerd.observe.metrics import Families, fleet_families
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "streamerd.json"
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
NAME = re.compile(r"\bstreamerd_\w+")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of the metrics after two loads of a checkpoint of six blocks, a failure and a
    refusal.
    """
    from tests.support.daemon import daemons

    with create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with daemons() as made:
        daemon = made.start(f"--metrics-listen={port}")
        return _told_after_loads(daemon, tmp_path_factory.mktemp("m"), port)


def _told_after_loads(daemon: DaemonProcess, source: Path, port: int) -> str:
    write_model(source, shards=2, blocks=3)
    with RawClient(daemon.socket) as client:
        for _ in range(2):
            load = client.open(str(source), hold=True)
            load.await_grants(6)
            load.close()
    with daemon_client(daemon.socket, label="x") as other, pytest.raises(SourceNotFound):
        other.admin.evict(str(source / "missing"))
    eventually(lambda: daemon.log.count("event=load_ended") == 2)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        told: str = answer.read().decode()
    totals = daemon.status()["totals"]
    sums = _sums(told)
    for name in (
        *("source_read_bytes", "source_requests", "served_bytes", "block_hits", "block_misses"),
        *("evicted_bytes", "retries", "errors", "worker_restarts", "lost_threads"),
    ):
        assert sums.get(f"streamerd_{name}_total", 0) == totals[name], name
    return told


def _sums(text: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


def test_counters_equal_what_was_loaded(text: str) -> None:
    sums = _sums(text)
    assert sums["streamerd_source_read_bytes_total"] == 6 * BLOCK
    assert sums["streamerd_load_bytes_total"] == sums["streamerd_served_bytes_total"] == 12 * BLOCK
    assert sums["streamerd_block_read_seconds_count"] == 6
    assert sums["streamerd_load_seconds_count"] == sums["streamerd_loads_total"] == 2


def test_a_client_that_lies_of_its_copies_hides_no_status(streamerd: DaemonProcess) -> None:
    with RawClient(streamerd.socket) as client:
        for _ in range(3):
            client.send(Copied(MAX_NUMBER, MAX_NUMBER, MAX_NUMBER))
        eventually(lambda: streamerd.totals()["copied_bytes"] == MAX_NUMBER)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing(text: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _families(text: str) -> set[str]:
    """The names of all metrics, as queries and pages use them."""
    names = set()
    for family in text_string_to_metric_families(text):
        suffix = "_total" if family.type == "counter" else ""
        names.add(family.name + suffix)
        if family.type == "histogram":
            names |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def test_the_dashboard_asks_only_for_metrics_that_exist(text: str) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in NAME.findall(query)}
    assert len(asked) > 15
    assert asked <= _families(text)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


NO_FLEET = FleetStatus(
    name="", me="", members=(), serving=False, restarts=0, peer_bytes=0, store_bytes=0,
    store_reads={}, sent_bytes=0, answers={}, connections=0,
)  # fmt: skip


def test_the_page_names_each_of_them_and_no_others(text: str) -> None:
    page = OPERATIONS.read_text()
    _, _, section = page.partition("\n## Metrics\n")
    told = set(NAME.findall(section.partition("\n## ")[0]))
    families = _families(text)
    parts = {name for name in families if name.endswith(("_bucket", "_sum", "_count"))}
    fleet = {metric.name for metric in fleet_families(Families(), NO_FLEET)}
    counted = {name for name in told if name.removesuffix("_total") in fleet}
    assert {name.removesuffix("_total") for name in counted} == fleet
    assert told - counted == families - parts


def test_no_label_tells_of_files_or_clients(text: str) -> None:
    labels = {
        label
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for label in sample.labels
    }
    assert labels == {"version", "kind", "le", "reason", "code", "outcome", "origin"}


def test_metrics_are_off_by_default(daemon_maker: Daemons) -> None:
    assert "event=metrics_served" not in daemon_maker.start().log
