"""The origins of the bytes that a pass copied."""

from __future__ import annotations

import pytest

from streamer_client.copy.feed import Copies, Route


@pytest.mark.parametrize(
    ("route", "direct_bytes", "copies"),
    [
        (Route.DAEMON, 0, Copies(daemon=10)),
        (Route.PAGE_CACHE, 12, Copies(page_cache=10)),
        (Route.DIRECT, 12, Copies(direct=10)),
        (Route.MIXED, 4, Copies(daemon=6, direct=4)),
        (Route.MIXED, 12, Copies(direct=10)),  # gaps between tensors are read too
    ],
)
def test_the_route_tells(route: Route, direct_bytes: int, copies: Copies) -> None:
    assert Copies.of(10, route, direct_bytes) == copies
