"""Room, huge pages, control group, memlock and left-over slabs."""

from __future__ import annotations

import pytest

from streamerd.cli.doctor.finding import State
from streamerd.cli.doctor.memory import (
    HEADROOM_BYTES,
    MountFacts,
    Segments,
    check_cgroup,
    check_huge_pages,
    check_memlock,
    check_room,
    check_segments,
)

GIB = 1 << 30


def _mount(total: int = 8 * GIB, free: int = 8 * GIB, huge: str = "never") -> MountFacts:
    return MountFacts(total, free, huge, collapses=False)


def test_what_the_limit_still_allows_must_be_free() -> None:
    assert check_room(_mount(free=3 * GIB), 4 * GIB, 1 * GIB).state is State.OK
    tight = check_room(_mount(free=3 * GIB - 1), 4 * GIB, 1 * GIB)
    assert tight.state is State.WARNING
    assert "memory_limit allows slabs of 3.00 GiB more" in tight.text
    assert "remount,size=" in tight.remedy


def test_the_size_in_the_remedy_is_enough() -> None:
    remedy = check_room(_mount(total=4 * GIB, free=GIB), 4 * GIB, 0).remedy
    assert "size=7GiB" in remedy  # others take 3 GiB, and the limit allows 4 GiB


def test_a_mount_that_is_missing_or_of_a_container() -> None:
    assert check_room(None, None, 0).state is State.FAILED
    small = check_room(_mount(64 << 20, 64 << 20), None, 0)
    assert small.state is State.WARNING
    assert "--shm-size" in small.remedy
    assert check_room(_mount(), None, 0).state is State.OK


@pytest.mark.parametrize(
    ("huge", "collapses", "state"),
    [
        ("never", True, State.OK),
        ("always", False, State.OK),
        ("within_size", False, State.OK),
        ("advise", False, State.WARNING),
        ("never", False, State.WARNING),
    ],
)
def test_huge_pages(huge: str, collapses: bool, state: State) -> None:
    finding = check_huge_pages(MountFacts(GIB, GIB, huge, collapses))
    assert finding.state is state
    assert ("remount,huge=within_size" in finding.remedy) == (state is State.WARNING)


@pytest.mark.parametrize(
    ("cgroup_bytes", "limit_bytes", "state"),
    [
        (None, GIB, State.OK),
        (2 * GIB, None, State.NOTE),
        (GIB + HEADROOM_BYTES, GIB, State.OK),
        (GIB + HEADROOM_BYTES - 1, GIB, State.WARNING),
        (GIB + 1, GIB, State.WARNING),
        (GIB, GIB, State.FAILED),
    ],
)
def test_the_control_group_must_hold_the_limit(
    cgroup_bytes: int | None, limit_bytes: int | None, state: State
) -> None:
    finding = check_cgroup(cgroup_bytes, limit_bytes)
    assert finding.state is state
    assert ("MemoryMax" in finding.remedy) == (state in (State.WARNING, State.FAILED))


def test_memlock_matters_with_a_gpu() -> None:
    assert check_memlock(None, gpu=True).state is State.OK
    assert check_memlock(8 << 20, gpu=False).state is State.OK
    assert check_memlock(8 << 20, gpu=True).state is State.WARNING
    assert check_memlock(GIB, gpu=True).state is State.OK


def test_only_slabs_that_nobody_will_use_are_stale() -> None:
    found = [Segments(name, 2, GIB) for name in ("alive", "kept", "dead")]
    kept, dead = check_segments(found, living={"alive"}, keeping={"kept", "alive"})
    assert kept.state is State.NOTE
    assert dead.state is State.WARNING
    assert dead.remedy == "`rm /dev/shm/streamerd.dead.*`"
    assert "2 slabs, 1.00 GiB" in dead.text
    assert [f.state for f in check_segments(found[:1], {"alive"}, set())] == [State.OK]
