"""The doctor's finding about a fleet."""

from __future__ import annotations

import msgspec
import pytest

from streamer_client.contract.status import FleetStatus
from streamerd.cli.doctor.finding import State
from streamerd.cli.doctor.fleet import check_fleet

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
