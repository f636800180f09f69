from __future__ import annotations

from streamer_client.contract.status import FleetStatus
from streamerd.cli.fleet.run import fleet_view

FLEET = FleetStatus(
    name="blue",
    me="10.0.0.1:7000",
    members=("10.0.0.1:7000", "10.0.0.2:7000"),
    serving=True,
    restarts=0,
    peer_bytes=3 << 30,
    store_bytes=1 << 30,
    store_reads={"owner": 120, "waited": 8},
    sent_bytes=2 << 30,
    answers={"sent": 256},
    connections=4,
)


def test_it_tells_members_and_bytes() -> None:
    assert fleet_view(FLEET).splitlines() == [
        "fleet blue: 2 members known, serving 4 connections",
        "  10.0.0.1:7000  (this node)",
        "  10.0.0.2:7000",
        "from other nodes  3.00 GiB",
        "from the store    1.00 GiB  (owner 120, waited 8)",
        "to other nodes    2.00 GiB  (sent 256)",
    ]


def test_a_node_without_a_fleet_is_told_where_to_read() -> None:
    assert "docs/fleet.md" in fleet_view(None)
