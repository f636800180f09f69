"""Cores near a device, out of files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer_client.copy.ring.machine import cores_of, near, node_of, ranks_here

ADDRESS = "0000:06:00.0"


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
