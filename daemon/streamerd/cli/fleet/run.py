"""`streamerctl fleet`: asks the daemon for its status, and shows the part about the fleet."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping

from streamer_client.contract.printable import printable
from streamer_client.contract.sizes import format_size
from streamer_client.contract.status import FleetStatus
from streamerd.cli.request import Requester
from streamerd.cli.status import asked_status
from streamerd.cli.terminal import DONE


def run(arguments: argparse.Namespace) -> int:
    """Show the fleet, as text or as JSON (`null` where no fleet is configured)."""
    with Requester(arguments.socket) as requester:
        if arguments.json:
            text = json.dumps(requester.status().get("fleet"), indent=2)
        else:
            text = fleet_view(asked_status(requester).fleet)
    sys.stdout.write(text + "\n")
    return DONE


def fleet_view(fleet: FleetStatus | None) -> str:
    """The lines that `streamerctl fleet` shows."""
    if fleet is None:
        return "This daemon is in no fleet; docs/fleet.md says how to set one up."
    serving = "serving" if fleet.serving else "not serving"
    known = f"{len(fleet.members)} members known" if fleet.members else "no members known"
    lines = [
        f"fleet {fleet.name}: {known}, {serving} {fleet.connections} connections",
        *(f"  {printable(name)}{own(name, fleet)}" for name in fleet.members),
        f"from other nodes  {format_size(fleet.peer_bytes)}",
        f"from the store    {format_size(fleet.store_bytes)}{counts(fleet.store_reads)}",
        f"to other nodes    {format_size(fleet.sent_bytes)}{counts(fleet.answers)}",
    ]
    if fleet.members_error:
        lines.append(f"who is in it is not told: {printable(fleet.members_error)}")
    if fleet.restarts:
        lines.append(f"the process that serves was started again {fleet.restarts} times")
    return "\n".join(lines)


def own(name: str, fleet: FleetStatus) -> str:
    """A mark if `name` is this node, else nothing; it follows the name in the list of members."""
    return "  (this node)" if name == fleet.me else ""


def counts(of: Mapping[str, int]) -> str:
    """The counts with their names as one text, the largest first; empty if there are no counts."""
    ordered = sorted(of.items(), key=lambda item: (-item[1], item[0]))
    return f"  ({', '.join(f'{name} {count}' for name, count in ordered)})" if ordered else ""
