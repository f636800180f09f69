"""Four nodes load one object over capped cables, and the store is read about once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fleet.checks import check_a_start_at_once, check_that_others_go_on
from tests.fleet.network import needs_network
from tests.fleet.nodes import Node, know_each_other, load_at_once
from tests.fleet.store import CountingStore
from tests.support.fleet_nodes import fleet_of

pytestmark = needs_network()


def test_four_nodes_at_once_read_the_store_about_once(
    nodes: list[Node], store: CountingStore, model: bytes, pool: ThreadPoolExecutor
) -> None:
    check_a_start_at_once(nodes, store, model, pool, "at-once")
    assert sum(fleet_of(node.daemon)["peer_bytes"] for node in nodes) >= 2.9 * len(model)


def test_a_late_node_reads_nothing_from_the_store(
    nodes: list[Node], store: CountingStore, model: bytes, pool: ThreadPoolExecutor
) -> None:
    uri = store.put("late.safetensors", model)
    *early, late = nodes
    load_at_once(pool, early, uri, store.environ()).of(early)
    before_bytes = store.sent_bytes(uri)
    assert late.load(uri, store.environ()) == model
    assert store.sent_bytes(uri) == before_bytes


def stop(node: Node) -> Callable[[], object]:
    node.stop()
    return node.go_on


def cut_off(node: Node) -> Callable[[], object]:
    node.host.cut_off()
    return node.host.connect


@pytest.fixture
def repairs(nodes: list[Node]) -> Iterator[list[Callable[[], object]]]:
    """Calls that repair the fleet after the test."""
    due: list[Callable[[], object]] = []
    yield due
    for repair in due:
        repair()
    know_each_other(nodes)


@pytest.mark.parametrize("fail", [stop, cut_off])
def test_others_go_on_when_a_node_fails_in_the_middle(
    nodes: list[Node],
    store: CountingStore,
    model: bytes,
    pool: ThreadPoolExecutor,
    repairs: list[Callable[[], object]],
    fail: Callable[[Node], Callable[[], object]],
) -> None:
    def failed(node: Node) -> None:
        repairs.append(fail(node))

    check_that_others_go_on(nodes, store, model, pool, fail.__name__, failed)
