"""Whatever happens to a daemon, metrics, status and report agree, and no counter goes back.

One daemon lives through most of the tests; each test's counters begin where the last test's ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.contract import messages as m
from tests.support.checkpoints import write_model
from tests.support.counters import Counters, Told
from tests.support.daemon import BLOCK, Daemons, daemons
from tests.support.loader import LoaderServer
from tests.support.raw_client import RawClient
from tests.support.raw_load import RawLoad
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "streamerd.toml"
    path.write_text(f"memory_limit = {16 * BLOCK}\n")
    return path


@pytest.fixture(scope="module")
def counters(config: Path) -> Iterator[Counters]:
    with daemons() as made:
        yield counters_of(made, config)


@pytest.fixture
def own_counters(daemon_maker: Daemons, config: Path) -> Counters:
    """The counters of a daemon for one test alone, which makes new processes."""
    return counters_of(daemon_maker, config)


def counters_of(made: Daemons, config: Path) -> Counters:
    metrics = made.directory / "metrics.sock"
    daemon = made.make(f"--config={config}", f"--metrics-listen={metrics}")
    daemon.drop_flag("--memory-limit")
    return Counters(daemon.start(), metrics)


def nobody_is_left(counters: Counters) -> Told:
    """Check that, once no client is left, every gauge of things that clients have is zero."""

    def alone() -> Told:
        told = counters.agree()
        for name in ("clients", "loads_running", "loads_waiting", "memory_leased_bytes"):
            assert told.sum(f"streamerd_{name}") == 0, name
        return told

    return eventually(alone)


def test_loads_and_pins(counters: Counters, tmp_path: Path) -> None:
    before = counters.agree()
    write_model(tmp_path / "m", shards=2, blocks=3)
    with RawClient(counters.daemon.socket) as client:
        for _ in range(2):
            load = client.open(str(tmp_path / "m"), hold=True)
            load.await_grants(6)
            assert counters.agree().sum("streamerd_memory_leased_bytes") == 6 * BLOCK
            load.close()
        transfer = client.hand_over_source(str(tmp_path / "m"))
        client.request(m.Pin(client.next_id(), str(tmp_path / "m"), transfer), m.Done)
        assert counters.agree().sum("streamerd_memory_pinned_bytes") == 6 * BLOCK
        client.request(m.Unpin(client.next_id(), str(tmp_path / "m"), transfer), m.Done)
    told = nobody_is_left(counters)
    assert told.sum("streamerd_memory_pinned_bytes") == 0
    served = told.status.totals.served_bytes - before.status.totals.served_bytes
    assert served == 12 * BLOCK
    assert told.labelled("streamerd_load_bytes_total")["memory",] >= 6 * BLOCK


def test_a_worker_that_dies_while_it_reads(own_counters: Counters, tmp_path: Path) -> None:
    daemon, before = own_counters.daemon, own_counters.agree().status
    (file,) = write_model(tmp_path / "m", shards=1, blocks=32)
    with RawClient(daemon.socket) as client:
        load = client.open(str(tmp_path / "m"), memory_limit=8 * BLOCK)
        load.await_grants(8)
        (pid,) = before.workers
        os.kill(pid, signal.SIGSTOP)
        load.consume(set(load.granted))
        eventually(lambda: daemon.reads_under_way() >= 4)
        os.kill(pid, signal.SIGKILL)
        assert load.read_all() == [file.read_bytes()]
        load.close()
    told = nobody_is_left(own_counters)
    assert told.status.totals.worker_restarts == before.totals.worker_restarts + 1
    assert told.status.totals.errors == before.totals.errors
    assert told.labelled("streamerd_retries_total")["worker_died",] >= 4


def test_a_client_that_is_killed(counters: Counters, loaders: LoaderServer, tmp_path: Path) -> None:
    write_model(tmp_path / "m", shards=1, blocks=64)
    source, socket = str(tmp_path / "m"), counters.daemon.socket
    with loaders.start(socket, source, hold=False, stop_at_first=True) as rank:
        rank.go_on()
        rank.await_line("first")
        assert counters.agree().sum("streamerd_loads_running") == 1
        rank.signal(signal.SIGKILL)
        rank.await_end()
    told = nobody_is_left(counters)
    assert told.labelled("streamerd_loads_total")["load", "gone"] == 1
    assert told.report.loads[-1].outcome == "gone"


def test_a_load_that_waits_and_leaves(counters: Counters, tmp_path: Path) -> None:
    for name in "abc":
        write_model(tmp_path / name, shards=1, blocks=14)
    with RawClient(counters.daemon.socket) as holder, RawClient(counters.daemon.socket) as other:
        holder.open(str(tmp_path / "a"), hold=True).await_grants(14)
        holder.open(str(tmp_path / "b"))  # The window of this load takes the rest of the memory.
        RawLoad(other, str(tmp_path / "c")).waiting()
        assert counters.agree().sum("streamerd_loads_waiting") == 1
    nobody_is_left(counters)


def test_evict_under_load(counters: Counters, tmp_path: Path) -> None:
    before = counters.agree()
    write_model(tmp_path / "m", shards=1, blocks=4)
    with RawClient(counters.daemon.socket) as client:
        load = client.open(str(tmp_path / "m"), hold=True)
        load.await_grants(4)
        client.request(m.Evict(client.next_id()), m.Done)
        assert counters.agree().sum("streamerd_memory_used_bytes") == 4 * BLOCK, "the leased stay"
        load.close()
        eventually(lambda: counters.agree().sum("streamerd_memory_leased_bytes") == 0)
        client.request(m.Evict(client.next_id()), m.Done)
    told = nobody_is_left(counters)
    assert told.sum("streamerd_memory_used_bytes") == 0
    evicted = told.status.totals.evicted_bytes - before.status.totals.evicted_bytes
    assert evicted == before.status.memory.used_bytes + 4 * BLOCK


def test_a_source_that_changes_under_a_load(counters: Counters, tmp_path: Path) -> None:
    before = counters.agree().status.totals.errors
    (file,) = write_model(tmp_path / "m", shards=1, blocks=32)
    with RawClient(counters.daemon.socket) as client:
        load = client.open(str(tmp_path / "m"), memory_limit=8 * BLOCK)
        load.await_grants(8)
        os.truncate(file, BLOCK)
        load.give_back(set(load.granted))
        failed = client.expect_also(m.ShardFailed)
        assert failed.code == "source-changed"
        counters.agree()
        load.close()
    told = nobody_is_left(counters)
    assert told.status.totals.errors == before + 1
    assert told.labelled("streamerd_errors_total")["source-changed",] == 1
    assert told.labelled("streamerd_loads_total")["load", "failed"] == 1


def test_a_reload_changes_the_limit_alone(counters: Counters, config: Path) -> None:
    before = counters.agree().status.totals
    config.write_text(f"memory_limit = {15 * BLOCK}\n")
    counters.daemon.signal(signal.SIGHUP)
    eventually(lambda: counters.daemon.status()["memory"]["limit_bytes"] == 15 * BLOCK)
    told = counters.agree()
    assert told.sum("streamerd_memory_limit_bytes") == 15 * BLOCK
    assert told.status.totals == before


def test_a_restart_counts_anew_and_keeps_what_is_resident(
    own_counters: Counters, tmp_path: Path
) -> None:
    daemon = own_counters.daemon
    write_model(tmp_path / "m", shards=1, blocks=4)
    with RawClient(daemon.socket) as client:
        client.open(str(tmp_path / "m"), hold=True).await_grants(4)
    used_bytes = nobody_is_left(own_counters).status.memory.used_bytes
    assert daemon.stop() == 0
    daemon.start()
    own_counters.restarted()
    told = own_counters.agree()
    assert told.sum("streamerd_memory_used_bytes") == used_bytes
    assert told.sum("streamerd_served_bytes_total") == told.sum("streamerd_loads_total") == 0
    with RawClient(daemon.socket) as client:
        client.open(str(tmp_path / "m"), hold=True).await_grants(4)
    told = nobody_is_left(own_counters)
    assert told.labelled("streamerd_load_bytes_total") == {("memory",): 4 * BLOCK}
    assert told.sum("streamerd_source_read_bytes_total") == 0
