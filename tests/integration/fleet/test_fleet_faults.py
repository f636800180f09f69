"""Whatever goes wrong in a fleet, the block is read from the store; no load fails or gets wrong
bytes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamer_client.contract.errors import SourceChanged
from streamer_client.contract.messages import ShardFailed
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.etcd import EtcdServer
from tests.support.fleet_nodes import (
    SOURCE,
    Nodes,
    fleet_of,
    fleet_process,
    read,
)
from tests.support.guarded_store import GuardedStore
from tests.support.leaks import SHM_DIR
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually


def test_a_corrupt_block_at_a_peer_is_read_from_the_store(
    daemon_maker: Daemons, etcd: EtcdServer, store: GuardedStore, files: list[bytes]
) -> None:
    first, second = Nodes(daemon_maker, etcd.members_uri).together(2)
    assert read(first, SOURCE, store.environ()) == files
    for name in first.segments():
        with open(SHM_DIR / name, "r+b") as slab:
            slab.seek(3 * BLOCK + 17)
            byte = slab.read(1)[0]
            slab.seek(3 * BLOCK + 17)
            slab.write(bytes([byte ^ 1]))
    store.seen.clear()
    assert read(second, SOURCE, store.environ()) == files
    assert store.reads()
    assert fleet_of(second)["store_reads"]["corrupt"] >= 1


def test_another_content_of_the_object_is_never_mixed(
    daemon_maker: Daemons, etcd: EtcdServer, store: GuardedStore, files: list[bytes]
) -> None:
    first, second = Nodes(daemon_maker, etcd.members_uri).together(2)
    assert read(first, SOURCE, store.environ()) == files
    changed = files[0][:-8] + b"changed!"
    store.put("models", "llama/llama-0.safetensors", changed)
    assert read(second, SOURCE, store.environ()) == [changed, files[1]]
    assert fleet_of(second)["peer_bytes"] == len(files[1])


def test_an_object_that_changes_between_two_opens_is_never_mixed(
    daemon_maker: Daemons, etcd: EtcdServer, store: GuardedStore, files: list[bytes]
) -> None:
    first, second = Nodes(daemon_maker, etcd.members_uri).together(2)
    changed = bytes(reversed(files[0]))
    store.holds = lambda seen: not seen.range.startswith("bytes=0-")
    store.open.clear()
    with RawClient(first.socket) as client, ThreadPoolExecutor(1) as pool:
        load = client.open(SOURCE, hold=True, environment=store.environ())
        load.await_grants(1)
        store.put("models", "llama/llama-0.safetensors", changed)
        other = pool.submit(read, second, SOURCE, store.environ())
        eventually(second.shards, 20, "the second node has opened it")
        store.open.set()
        assert client.expect(ShardFailed).code == SourceChanged.code
        assert other.result(60) == [changed, files[1]]


def test_the_process_that_serves_is_started_again(
    daemon_maker: Daemons, etcd: EtcdServer, store: GuardedStore, files: list[bytes]
) -> None:
    nodes = Nodes(daemon_maker, etcd.members_uri)
    first, second = nodes.together(2)
    os.kill(fleet_process(first), signal.SIGKILL)
    eventually(lambda: fleet_of(first)["restarts"] == 1 and fleet_of(first)["serving"], 20)
    nodes.know_each_other()
    assert read(first, SOURCE, store.environ()) == files
    store.seen.clear()
    assert read(second, SOURCE, store.environ()) == files
    assert not store.reads()


def _killed(node: DaemonProcess) -> None:
    node.kill()


def _stopped(node: DaemonProcess) -> None:
    os.kill(fleet_process(node), signal.SIGSTOP)


@pytest.mark.parametrize("harm", [_killed, _stopped], ids=["killed", "stopped"])
def test_a_peer_that_goes_in_the_middle_of_a_load(
    daemon_maker: Daemons,
    etcd: EtcdServer,
    store: GuardedStore,
    files: list[bytes],
    harm: Callable[[DaemonProcess], None],
) -> None:
    nodes = Nodes(daemon_maker, etcd.members_uri).together(3)
    store.open.clear()
    with RawClient(nodes[2].socket) as client:
        client.prefetch(SOURCE, environment=store.environ())
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(read, node, SOURCE, store.environ()) for node in nodes[:2]]
        eventually(lambda: store.waiting > 0, 20)
        harm(nodes[2])
        store.open.set()
        for load in loads:
            assert load.result() == files
