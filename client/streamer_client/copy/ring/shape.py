"""The size of a ring, and the cores that its threads run on.

A shape is threads, slots per thread and bytes per slot; docs/performance.md has the measurements
behind the figures. More threads copy faster until the host's memory is the limit. A slot must be
large enough that the time of the device's commands does not count. It must also be small enough
that its bytes are still in the processor's cache when the device fetches them.

The first half is pure; the second half asks sysfs, the environment and torch about the machine.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

import torch

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.sizes import parse_size

MOST_PINNED_BYTES: Final = 160 << 20
"""How many bytes one rank may pin at most."""
SHAPE_ENV: Final = "STREAMERD_RING"
SLOT_ALIGNMENT_BYTES: Final = 4096
MOST_THREADS: Final = 10
MOST_THREADS_SHARED: Final = 12
SLOT_BYTES: Final = 4 << 20
SLOT_BYTES_SHARED: Final = 2 << 20
"""Size of a slot if several ranks run on one machine, as they share its caches and memory."""
SLOTS: Final = 2
SYSFS: Final = "/sys"


class RingShape(NamedTuple):
    """Number of threads, slots of each thread, and bytes of each slot."""

    threads: int
    slots: int
    slot_bytes: int

    @property
    def pinned_bytes(self) -> int:
        return self.threads * self.slots * self.slot_bytes


def ring_shape(cores: int, ranks: int) -> RingShape:
    """The shape for reading slabs, on a machine with this many cores and ranks."""
    share = max(1, cores // ranks)
    if ranks == 1:
        return RingShape(min(MOST_THREADS, share), SLOTS, SLOT_BYTES)
    return RingShape(min(MOST_THREADS_SHARED, share), SLOTS, SLOT_BYTES_SHARED)


def storage_shape(threads: int, block_bytes: int) -> RingShape:
    """The shape for reading storage: a slot takes a whole block, so that one request reads it.

    Each thread has one slot, since copying out of a slot is much faster than reading into it.
    """
    return RingShape(max(1, min(threads, MOST_PINNED_BYTES // block_bytes)), 1, block_bytes)


def parse_shape(text: str) -> RingShape:
    """Parse `THREADSxSLOTSxSIZE`, for example `8x2x4MiB`.

    Raises:
        ConfigError: the text is not of that form, or asks for more than a rank may pin.
    """
    found = re.fullmatch(r"(\d+)x(\d+)x(.+)", text.strip())
    if found is None:
        raise ConfigError(f"{SHAPE_ENV} is {text!r}; it is THREADSxSLOTSxSIZE, such as 8x2x4MiB")
    try:
        shape = RingShape(int(found[1]), int(found[2]), parse_size(found[3]))
    except ValueError as error:
        raise ConfigError(f"{SHAPE_ENV} is {text!r}: {error}") from error
    if not (shape.threads and shape.slots and shape.slot_bytes):
        raise ConfigError(f"{SHAPE_ENV} is {text!r}; none of its numbers may be 0")
    if shape.slot_bytes % SLOT_ALIGNMENT_BYTES:
        raise ConfigError(f"{SHAPE_ENV} is {text!r}; a slot is a multiple of 4KiB")
    if shape.pinned_bytes > MOST_PINNED_BYTES:
        raise ConfigError(
            f"{SHAPE_ENV} is {text!r}, {shape.pinned_bytes} bytes of pinned memory; "
            f"{MOST_PINNED_BYTES} is the most for one rank"
        )
    return shape


# --- the machine ---------------------------------------------------------------------------------


def cores_of(node: int, sysfs: str = SYSFS) -> frozenset[int]:
    """The processors of a NUMA node; empty if sysfs does not tell them."""
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
    """The NUMA node of a device on the PCI bus; -1 if it has none, or sysfs does not tell it."""
    try:
        with open(f"{sysfs}/bus/pci/devices/{pci_address}/numa_node", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return -1


def near(allowed: frozenset[int], pci_address: str | None, sysfs: str = SYSFS) -> frozenset[int]:
    """The allowed processors on the device's NUMA node; all allowed ones if none is known."""
    node = -1 if pci_address is None else node_of(pci_address, sysfs)
    return (cores_of(node, sysfs) & allowed) or allowed


def pci_address(device: torch.device) -> str | None:
    """A CUDA device's address on the PCI bus, in sysfs's form; None if torch hides it."""
    properties = torch.cuda.get_device_properties(device)
    domain, bus, place = (
        getattr(properties, f"pci_{part}_id", -1) for part in ("domain", "bus", "device")
    )
    return None if min(domain, bus, place) < 0 else f"{domain:04x}:{bus:02x}:{place:02x}.0"


def ranks_here() -> int:
    """How many ranks load on this machine at the same time, as far as this process can know."""
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    if local.isdigit() and int(local):
        return int(local)
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return max(1, min(distributed.get_world_size(), torch.cuda.device_count()))
    return 1
