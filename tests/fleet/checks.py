"""Checks that hold for a fleet over capped cables, however its nodes learn of each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.fleet.network import RATE_BYTES
from tests.fleet.nodes import Node, load_at_once
from tests.fleet.store import CountingStore
from tests.support.fleet_nodes import fleet_of
from tests.support.waiting import eventually

TRIES: Final = 3
"""A load that has to be fast is made at most this often, and must be fast once. Other work on the
machine slows all nodes down, since they share its processors, but it does not slow the store's
cable. The bytes that the store sends are checked each time."""


def alone_s(model: bytes, nodes: int) -> float:
    """The least time in which this many nodes can get all of it from the store.

    It follows from the rate of the store's cable, and any real run takes longer.
    """
    return nodes * len(model) / RATE_BYTES


def reasons(nodes: list[Node]) -> Mapping[str, Mapping[str, int]]:
    """The reasons for which each node has read the store until now, for the text of a failure."""
    return {node.address: fleet_of(node.daemon)["store_reads"] for node in nodes}


def check_a_start_at_once(
    nodes: list[Node], store: CountingStore, model: bytes, pool: ThreadPoolExecutor, name: str
) -> None:
    """Check that each time the store sends at most 1.1 times the object, and that the last node is
    fast at least once.
    """
    ratios: list[float] = []
    for number in range(TRIES):
        uri = store.put(f"{name}-{number}.safetensors", model)
        loads = load_at_once(pool, nodes, uri, store.environ())
        assert all(data == model for data in loads.of(nodes))
        assert store.sent_bytes(uri) <= 1.1 * len(model), reasons(nodes)
        ratios.append(loads.longest_s(nodes) / alone_s(model, len(nodes)))
        if ratios[-1] <= 0.5:
            return
    pytest.fail(f"the last node took {ratios} of all from the store; 0.5 is wanted")


def check_that_others_go_on(
    nodes: list[Node],
    store: CountingStore,
    model: bytes,
    pool: ThreadPoolExecutor,
    name: str,
    fail: Callable[[Node], object],
) -> None:
    """Check that, when the last node fails in the middle of a load, the others read at most 0.3 of
    the object again.
    """
    uri = store.put(f"{name}.safetensors", model)
    *others, victim = nodes
    loads = load_at_once(pool, nodes, uri, store.environ())
    eventually(lambda: victim.resident_bytes(uri) > len(model) // 3, 60)
    fail(victim)
    assert all(data == model for data in loads.of(others))
    assert loads.longest_s(others) <= alone_s(model, len(nodes))
    assert store.sent_bytes(uri) <= 1.3 * len(model), reasons(others)
