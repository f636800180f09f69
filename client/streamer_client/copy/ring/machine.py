"""What the ring's shape depends on: cores, their place by the GPU, ranks that share them."""

from __future__ import annotations

import os
from typing import Final

import torch

SYSFS: Final = "/sys"


def cores_of(node: int, sysfs: str = SYSFS) -> frozenset[int]:
    """The processors of a NUMA node; none where it is not known."""
    try:
        with open(f"{sysfs}/devices/system/node/node{node}/cpulist", encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return frozenset()
    cores: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first:
            cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def node_of(pci_address: str, sysfs: str = SYSFS) -> int:
    """The NUMA node of a device on the PCI bus; -1 where it has none, or is not known."""
    try:
        with open(f"{sysfs}/bus/pci/devices/{pci_address}/numa_node", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return -1


def near(allowed: frozenset[int], pci_address: str | None, sysfs: str = SYSFS) -> frozenset[int]:
    """The allowed processors by the device; all allowed ones where none is known to be."""
    node = -1 if pci_address is None else node_of(pci_address, sysfs)
    return (cores_of(node, sysfs) & allowed) or allowed


def pci_address(device: torch.device) -> str | None:
    """A CUDA device's address on the PCI bus, as sysfs writes it; None if torch does not tell."""
    properties = torch.cuda.get_device_properties(device)
    domain, bus, place = (
        getattr(properties, f"pci_{part}_id", -1) for part in ("domain", "bus", "device")
    )
    return None if min(domain, bus, place) < 0 else f"{domain:04x}:{bus:02x}:{place:02x}.0"


def ranks_here() -> int:
    """Ranks that load on this machine at the same time, as far as this process can know."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    if told.isdigit() and int(told):
        return int(told)
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return max(1, min(distributed.get_world_size(), torch.cuda.device_count()))
    return 1
