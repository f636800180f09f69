"""The ring's size stays within its bounds on every machine, or is as configured; the same for its
cores.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.copy.ring.shape import (
    MOST_PINNED_BYTES,
    RingShape,
    cores_of,
    near,
    node_of,
    parse_shape,
    ranks_here,
    ring_shape,
    storage_shape,
)

ADDRESS = "0000:06:00.0"


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("cores", [1, 2, 7, 16, 64, 192])
def test_bounds(cores: int, ranks: int) -> None:
    shape = ring_shape(cores, ranks)
    assert 1 <= shape.threads <= max(1, cores // ranks)
    assert shape.slots >= 2
    assert shape.pinned_bytes <= MOST_PINNED_BYTES


@pytest.mark.parametrize("block_bytes", [64 << 10, 8 << 20, 32 << 20])
@pytest.mark.parametrize("threads", [1, 16, 64])
def test_storage_is_read_in_whole_blocks(threads: int, block_bytes: int) -> None:
    shape = storage_shape(threads, block_bytes)
    assert shape.slot_bytes == block_bytes
    assert 1 <= shape.threads <= threads
    assert shape.pinned_bytes <= MOST_PINNED_BYTES


def test_a_shape_that_is_told() -> None:
    assert parse_shape("8x2x4MiB") == RingShape(8, 2, 4 << 20)
    assert parse_shape(" 1x3x4096 ") == RingShape(1, 3, 4096)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8x2", "THREADSxSLOTSxSIZE"),
        ("8x2xmuch", "not a size"),
        ("0x2x4MiB", "may be 0"),
        ("8x2x5000", "multiple of 4KiB"),
        ("16x2x8MiB", "is the most"),
    ],
)
def test_a_shape_that_cannot_be(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse_shape(text)


def machine(root: Path, node: str) -> str:
    device = root / "bus/pci/devices" / ADDRESS
    device.mkdir(parents=True)
    (device / "numa_node").write_text(node)
    for number, cores in enumerate(("0-3,8", "4-7")):
        folder = root / f"devices/system/node/node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cores + "\n")
    return str(root)


def test_cores_of_the_devices_node(tmp_path: Path) -> None:
    sysfs = machine(tmp_path, "1\n")
    assert node_of(ADDRESS, sysfs) == 1
    assert cores_of(0, sysfs) == {0, 1, 2, 3, 8}
    assert near(frozenset(range(6)), ADDRESS, sysfs) == {4, 5}
    assert near(frozenset({0, 1}), ADDRESS, sysfs) == {0, 1}, "none of ours is near: all are"
    assert near(frozenset({0, 5}), None, sysfs) == {0, 5}


def test_no_node_and_no_such_device(tmp_path: Path) -> None:
    sysfs = machine(tmp_path, "-1\n")
    assert near(frozenset({0, 5}), ADDRESS, sysfs) == {0, 5}
    assert node_of("0000:00:00.0", sysfs) == -1


def test_ranks_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert ranks_here() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert ranks_here() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    assert ranks_here() == 1
