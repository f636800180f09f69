"""Memory limits that cannot be kept, and those that leave little to others."""

from streamerd.memory.check import contradiction, doubts, own_bytes
from streamerd.memory.room import MemoryRoom

GIB = 1 << 30
FILE = "/sys/fs/cgroup/x/memory.max"


def test_the_daemon_needs_memory_itself() -> None:
    assert own_bytes(workers=1, threads=2, block_bytes=8 << 20) == (64 + 32 + 16) << 20
    assert own_bytes(4, 4, 8 << 20) < GIB


def test_nothing_known_contradicts_nothing() -> None:
    assert contradiction(2**50, GIB, MemoryRoom(None, None, None)) is None
    assert list(doubts(2**50, GIB, MemoryRoom(None, None, None))) == []


def test_each_ceiling_contradicts() -> None:
    room = MemoryRoom(8 * GIB, None, 6 * GIB)
    assert contradiction(6 * GIB, GIB, room) is None
    assert "remount,size=7GiB" in (contradiction(7 * GIB, GIB, room) or "")
    assert "machine" in (contradiction(5 * GIB, GIB, MemoryRoom(4 * GIB, None, 6 * GIB)) or "")
    group = MemoryRoom(8 * GIB, 4 * GIB, 6 * GIB, FILE)
    assert contradiction(3 * GIB, GIB, group) is None
    said = contradiction(3 * GIB + 1, GIB, group) or ""
    assert FILE in said
    assert f"Lower memory_limit to {3 * GIB} " in said


def test_what_is_tight_is_said_with_numbers() -> None:
    roomy = MemoryRoom(100 * GIB, 80 * GIB, 60 * GIB, FILE, GIB)
    assert list(doubts(40 * GIB, GIB, roomy)) == []
    (said,) = doubts(74 * GIB, GIB, roomy)
    assert "75.0 GiB of the control group's 80.0 GiB" in said
    (said,) = doubts(60 * GIB, GIB, roomy._replace(cgroup_used_bytes=30 * GIB))
    assert "30.0 GiB that the group uses already" in said
    (said,) = doubts(95 * GIB, GIB, MemoryRoom(100 * GIB, None, None))
    assert "the machine's 100 GiB" in said
