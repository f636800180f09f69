"""The doctor's finding about a fleet."""

from __future__ import annotations

import socket

import msgspec
import pytest

from streamer_client.contract.status import FleetStatus
from streamerd.cli.doctor.ask_node import ask_peer
from streamerd.cli.doctor.finding import State
from streamerd.cli.doctor.fleet import check_fleet, other_member

WELL = FleetStatus(
    name="gpus", me="10.0.0.4:7270", members=("10.0.0.4:7270", "10.0.0.5:7270"), serving=True,
    restarts=0, peer_bytes=1 << 30, store_bytes=1 << 20, store_reads={"owner": 3}, sent_bytes=0,
    answers={}, connections=0,
)  # fmt: skip


def test_nothing_is_said_where_there_is_no_fleet() -> None:
    assert check_fleet(None) == []


def test_a_fleet_that_works_is_told_with_its_figures() -> None:
    (found,) = check_fleet(WELL)
    assert (found.check, found.state) == ("fleet", State.OK)
    assert found.text == "gpus: 2 members, 1.00 GiB from them, 1.00 MiB from stores"


@pytest.mark.parametrize(
    ("changes", "state", "named"),
    [
        ({"serving": False}, State.FAILED, "fleet_not_served"),
        ({"members": (), "me": ""}, State.WARNING, "fleet_members_unknown"),
        ({"members_error": "etcd: refused"}, State.WARNING, "fleet_members"),
        ({"me": "10.0.0.9:7270"}, State.WARNING, "fleet_listen"),
        ({"store_reads": {"corrupt": 1}}, State.WARNING, "fleet_peer_corrupt"),
        ({"store_reads": {"silent": 1}}, State.WARNING, "fleet_peer_silent"),
        ({"members": ("10.0.0.4:7270",)}, State.NOTE, ""),
    ],
)
def test_what_is_wrong_has_a_remedy(changes: dict[str, object], state: State, named: str) -> None:
    (found,) = check_fleet(msgspec.structs.replace(WELL, **changes))
    assert found.state is state
    assert named in found.remedy


def test_each_node_tries_the_one_after_it() -> None:
    names = ("10.0.0.4:1", "10.0.0.5:1", "10.0.0.6:1")
    tried = [other_member(msgspec.structs.replace(WELL, me=me, members=names)) for me in names]
    assert tried == [names[1], names[2], names[0]]
    assert other_member(msgspec.structs.replace(WELL, members=(WELL.me,))) == ""
    assert other_member(None) == ""


def test_another_member_is_reached_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        _, found = check_fleet(WELL, ask_peer(address))
        assert (found.state, found.text) == (State.OK, f"{address} takes connections")
    _, found = check_fleet(WELL, ask_peer(address))
    assert found.state is State.WARNING
    assert f"{address} is not reached from here: Connection refused" in found.text
    assert "fleet_listen" in found.remedy
    assert ask_peer("") is None
