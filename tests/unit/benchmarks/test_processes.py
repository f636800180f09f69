"""Connections are spread over the processes of a bare loop."""

from __future__ import annotations

import pytest
from benchmarks.objects.processes import spread


@pytest.mark.parametrize(
    ("connections", "processes", "counts"),
    [(4, 2, [2, 2]), (5, 2, [3, 2]), (1, 16, [1]), (32, 16, [2] * 16)],
)
def test_all_connections_are_spread_and_no_process_has_none(
    connections: int, processes: int, counts: list[int]
) -> None:
    assert spread(connections, processes) == counts
