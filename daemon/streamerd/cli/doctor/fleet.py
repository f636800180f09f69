"""Judges whether this node finds other nodes, whether they can ask it, and whether it reaches one.

This module is pure. The daemon's status and the result of connecting to one other node go in,
verdicts come out. The doctor only connects to that node and asks it nothing, since the user of the
doctor may have no right to read the key of this node's certificate.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamer_client.contract.sizes import format_size
from streamer_client.contract.status import FleetStatus
from streamerd.cli.doctor.finding import Finding, State

_LOG = "see the daemon's log, `journalctl -u streamerd`, for"


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """The result of connecting to one other member from this process."""

    address: str
    error: str
    """The text of the error; empty if the connection was made."""


def other_member(fleet: FleetStatus | None) -> str:
    """The member to try: the next in order, so that all nodes' doctors try all; or empty."""
    if fleet is None:
        return ""
    others = sorted(set(fleet.members) - {fleet.me})
    after = [name for name in others if name > fleet.me]
    return next(iter(after or others), "")


def check_fleet(fleet: FleetStatus | None, peer: PeerFacts | None = None) -> list[Finding]:
    """The findings about the fleet; none where the daemon is in no fleet."""
    if fleet is None:
        return []
    state, text, remedy = _fleet(fleet)
    return [Finding("fleet", state, f"{fleet.name}: {text}", remedy), *_peer(peer)]


def _peer(peer: PeerFacts | None) -> list[Finding]:
    if peer is None:
        return []
    if not peer.error:
        return [Finding("fleet peer", State.OK, f"{peer.address} takes connections")]
    text = f"{peer.address} is not reached from here: {peer.error}"
    remedy = "open the port of its fleet_listen to this node, and see `streamerctl doctor` there"
    return [Finding("fleet peer", State.WARNING, text, remedy)]


def _fleet(fleet: FleetStatus) -> tuple[State, str, str]:
    if not fleet.serving:
        text = f"other nodes cannot ask this one; its process was started {fleet.restarts} times"
        return State.FAILED, text, f"{_LOG} event=fleet_not_served, which says why"
    if fleet.members_error:
        text = f"who is in it is not told: {fleet.members_error}"
        remedy = "mend what fleet_members names; the last list is used for a minute, then the store"
        return State.WARNING, text, remedy
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
