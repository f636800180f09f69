"""The checks of `checks.py` where nodes find each other by DNS, as in Kubernetes, and one of them
dies.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.fleet.checks import check_a_start_at_once, check_that_others_go_on
from tests.fleet.network import needs_network
from tests.fleet.nodes import Node
from tests.fleet.store import CountingStore

pytestmark = needs_network()


def test_four_nodes_start_at_once_and_one_is_killed(
    nodes_by_dns: list[Node], store: CountingStore, model: bytes, pool: ThreadPoolExecutor
) -> None:
    check_a_start_at_once(nodes_by_dns, store, model, pool, "by-dns")
    check_that_others_go_on(nodes_by_dns, store, model, pool, "killed", Node.kill)
