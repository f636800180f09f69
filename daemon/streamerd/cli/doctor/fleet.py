"""Does this node find others, and can they ask it?

Pure: what the daemon's status says goes in, a verdict comes out. Asks no other node itself, since
whoever runs the doctor need not have the right to the node's key.
"""

from __future__ import annotations

from streamer_client.contract.sizes import format_size
from streamer_client.contract.status import FleetStatus
from streamerd.cli.doctor.finding import Finding, State

_LOG = "see the daemon's log, `journalctl -u streamerd`, for"


def check_fleet(fleet: FleetStatus | None) -> list[Finding]:
    """The finding about the fleet; none where the daemon is in no fleet."""
    if fleet is None:
        return []
    state, text, remedy = _fleet(fleet)
    return [Finding("fleet", state, f"{fleet.name}: {text}", remedy)]


def _fleet(fleet: FleetStatus) -> tuple[State, str, str]:
    if not fleet.serving:
        text = f"other nodes cannot ask this one; its process was started {fleet.restarts} times"
        return State.FAILED, text, f"{_LOG} event=fleet_not_served, which says why"
    if not fleet.members:
        text = "no member is known, so all is read from the store"
        remedy = f"{_LOG} event=fleet_members_unknown; is what fleet_members names reachable?"
        return State.WARNING, text, remedy
    if fleet.me not in fleet.members:
        text = f"this node is not among its {len(fleet.members)} members"
        return (
            State.WARNING,
            text,
            "set fleet_listen to an address that others reach",
        )
    if fleet.store_reads.get("corrupt"):
        text = f"other nodes sent {fleet.store_reads['corrupt']} blocks with wrong bytes"
        return State.WARNING, text, f"{_LOG} event=fleet_peer_corrupt, and check that node's memory"
    if len(fleet.members) == 1:
        return State.NOTE, "this node is the only member", ""
    if fleet.store_reads.get("silent"):
        text = f"{fleet.store_reads['silent']} blocks came from the store as nobody answered"
        remedy = f"{_LOG} event=fleet_peer_silent: a closed port, or a certificate"
        return State.WARNING, text, remedy
    got = f"{format_size(fleet.peer_bytes)} from them, {format_size(fleet.store_bytes)} from stores"
    return State.OK, f"{len(fleet.members)} members, {got}", ""
