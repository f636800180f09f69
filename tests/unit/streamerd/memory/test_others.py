"""The default limit where others use memory too: other daemons' slabs, and a GPU without memory of
its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from streamerd.memory.check import DefaultLimit, default_limit
from streamerd.memory.others import others_bytes
from streamerd.memory.room import MemoryRoom, memory_room

GIB = 1 << 30
BLOCK = 8 << 20


def test_only_slabs_of_other_instances_count(tmp_path: Path) -> None:
    mount = tmp_path / "shm"
    mount.mkdir()
    socket = tmp_path / "control.sock"
    for name in ("streamerd.0000000a.1", "streamerd.0000000b.1", "somebody-else"):
        (mount / name).write_bytes(bytes(8192))
    Path(f"{socket}.instance").write_text("0000000a\n")
    one_bytes = (mount / "streamerd.0000000b.1").stat().st_blocks * 512
    assert one_bytes >= 8192
    assert others_bytes(str(mount), str(socket)) == one_bytes
    assert others_bytes(str(mount), str(tmp_path / "new.sock")) == 2 * one_bytes
    assert others_bytes(str(tmp_path / "no mount"), str(socket)) == 0


def test_the_default_is_of_what_others_leave() -> None:
    shared = MemoryRoom(64 * GIB, None, 32 * GIB, taken_bytes=12 * GIB)
    text = "half of what other daemons leave of the size of /dev/shm, 20.0 GiB"
    assert default_limit(shared, BLOCK) == DefaultLimit(10 * GIB, text)


def test_the_control_group_is_ones_own() -> None:
    room = MemoryRoom(64 * GIB, 8 * GIB, 32 * GIB, "/x/memory.max", taken_bytes=12 * GIB)
    assert default_limit(room, BLOCK) == DefaultLimit(
        4 * GIB, "half of the control group's limit in /x/memory.max, 8.00 GiB"
    )


def test_a_gpu_that_shares_the_memory_leaves_less() -> None:
    room = MemoryRoom(128 * GIB, None, None, unified=True)
    text = "a quarter of the machine's memory, 128 GiB, which the GPU shares"
    assert default_limit(room, BLOCK) == DefaultLimit(32 * GIB, text)


@pytest.mark.parametrize(
    ("vendor", "device", "unified"),
    [("0x10de", "0x2e12", True), ("0x10de", "0x2330", False), ("0x8086", "0x2e12", False)],
)
def test_such_a_gpu_is_known_by_its_number(
    tmp_path: Path, vendor: str, device: str, unified: bool
) -> None:
    folder = tmp_path / "sys/bus/pci/devices/000f:01:00.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text(f"{device}\n")
    assert memory_room(str(tmp_path)).unified is unified
