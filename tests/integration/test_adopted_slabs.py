"""Adopting slabs: the conditions that an object must meet, the choice among them, and the removal
of the rest.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import posix_ipc
import pytest

from streamerd.persist.adoption import AdoptedSlab, adopt_slabs, choose
from streamerd.reading.checksums import Checksums
from streamerd.shm.sidecars import VERSION, Sidecar, SidecarFolder
from streamerd.shm.slabs import (
    allocated_bytes,
    create_slab,
    inode_of,
    instance_slabs,
    remove_slab,
    slab_name,
)

BLOCK = 64 << 10
LIMIT = 16 * BLOCK


class Left:
    """The slabs and sidecars that a daemon left behind."""

    def __init__(self, directory: Path) -> None:
        self.folder = SidecarFolder(str(directory / "s.sock"))
        self.folder.make()
        self.instance = secrets.token_hex(4)
        self._made = 0

    def name(self) -> str:
        self._made += 1
        return slab_name(self.instance, "", "", self._made)

    def slab(
        self,
        flags: str = "111",
        size_bytes: int | None = None,
        backed: str | None = None,
        **fields: Any,
    ) -> Sidecar:
        """A slab with memory behind the blocks of `backed`, and a sidecar that claims `flags`."""
        size_bytes = len(flags) * BLOCK if size_bytes is None else size_bytes
        name = self.name()
        with open(create_slab(name, size_bytes), "r+b") as file:
            for block, flag in enumerate(backed or flags):
                if flag == "1":
                    count = min(BLOCK, size_bytes - block * BLOCK)
                    os.pwrite(file.fileno(), bytes([block + 1]) * count, block * BLOCK)
        resident = bytes(int(flag) for flag in flags)
        checksums = Checksums(len(flags)).packed()
        sidecar = Sidecar(
            VERSION, f"/m/{self._made}", f"id{self._made}", size_bytes, BLOCK, name, inode_of(name),
            resident, checksums, False, float(self._made),
        )  # fmt: skip
        sidecar = msgspec.structs.replace(sidecar, **fields)
        self.folder.write(sidecar)
        return sidecar

    def adopt(self, limit_bytes: int = LIMIT, block_bytes: int = BLOCK) -> list[AdoptedSlab]:
        taken = adopt_slabs(
            self.folder, self.instance, limit_bytes, block_bytes, lambda _sidecar: self.name()
        )
        for one in taken:
            found = os.fstat(one.fd)
            assert (found.st_ino, found.st_nlink) == (one.sidecar.inode, 1)
            os.close(one.fd)
        return taken


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Left]:
    made = Left(tmp_path)
    yield made
    for name in instance_slabs(made.instance):
        remove_slab(name)


def test_a_sound_slab_gets_a_new_name_and_keeps_its_bytes(left: Left) -> None:
    sidecar = left.slab("111", size_bytes=2 * BLOCK + 5)
    left.folder.mark()
    (taken,) = left.adopt()
    assert (taken.resident, taken.proven, taken.in_use) == (((0, 3),), True, False)
    assert taken.sidecar == msgspec.structs.replace(sidecar, slab=taken.sidecar.slab)
    assert taken.sidecar.slab != sidecar.slab
    assert instance_slabs(left.instance) == [taken.sidecar.slab]
    assert left.folder.read_all() == [taken.sidecar]
    assert inode_of(taken.sidecar.slab) == sidecar.inode
    assert not left.folder.take_mark()


def test_without_the_mark_nothing_is_proven(left: Left) -> None:
    left.slab()
    assert [taken.proven for taken in left.adopt()] == [False]


def test_blocks_without_memory_behind_them_are_not_proven(left: Left) -> None:
    left.slab("111", backed="101")
    left.folder.mark()
    assert [taken.proven for taken in left.adopt()] == [False]


def test_memory_that_no_sidecar_claims_is_given_back(left: Left) -> None:
    left.slab("10010", backed="11011")
    (taken,) = left.adopt()
    assert taken.resident == ((0, 1), (3, 4))
    assert allocated_bytes(taken.sidecar.slab) == 2 * BLOCK


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_who_has_it_open_shows(left: Left, how: str) -> None:
    sidecar = left.slab()
    memory = posix_ipc.SharedMemory(sidecar.slab, read_only=True)
    flags = mmap.MAP_PRIVATE
    mapping = mmap.mmap(memory.fd, BLOCK, flags=flags) if how == "mapped" else None
    if mapping is not None:
        memory.close_fd()
    (taken,) = left.adopt()
    assert taken.in_use
    if mapping is None:
        memory.close_fd()
    else:
        assert mapping[0] == 1
        mapping.close()
    assert [again.in_use for again in left.adopt()] == [False]


@pytest.mark.parametrize("ended_well", [True, False])
def test_a_slab_partly_filled_and_in_use(left: Left, ended_well: bool) -> None:
    """Only after a clean end is it certain that no client was granted a block that the sidecar does
    not claim.
    """
    sidecar = left.slab("110")
    if ended_well:
        left.folder.mark()
    with open(f"/dev/shm{sidecar.slab}", "rb"):
        taken = left.adopt()
    assert len(taken) == ended_well
    assert len(instance_slabs(left.instance)) == ended_well


@pytest.mark.parametrize(
    "fields",
    [
        {"inode": 1},
        {"slab": "/streamerd.nobody.1"},
        {"block_bytes": 2 * BLOCK},
        {"block_bytes": 0},
        {"resident": b"\1"},
        {"checksums": b""},
    ],
)
def test_a_sidecar_that_does_not_match_its_slab(left: Left, fields: dict[str, Any]) -> None:
    left.slab(**fields)
    left.folder.mark()
    assert left.adopt() == []
    assert instance_slabs(left.instance) == []
    assert left.folder.read_all() == []


def test_an_object_of_another_size_is_none_of_ours(left: Left) -> None:
    sidecar = left.slab()
    os.truncate(f"/dev/shm{sidecar.slab}", 3 * BLOCK - 4096)
    left.folder.mark()
    assert left.adopt() == []


def test_what_has_no_sidecar_goes_and_others_are_not_touched(left: Left, tmp_path: Path) -> None:
    os.close(create_slab(left.name(), BLOCK))
    (tmp_path / "other").mkdir()
    other = Left(tmp_path / "other")
    theirs = other.slab()
    try:
        assert left.adopt() == []
        assert instance_slabs(left.instance) == []
        assert instance_slabs(other.instance) == [theirs.slab]
    finally:
        remove_slab(theirs.slab)


def test_a_lower_limit_takes_what_was_used_last(left: Left) -> None:
    old, pinned, new = left.slab(), left.slab(pinned=True, last_used_s=-5.0), left.slab()
    assert choose([old, pinned, new], 6 * BLOCK) == [pinned, new]
    assert choose([old, pinned, new], 9 * BLOCK) == [pinned, new, old]
    assert choose([old, pinned, new], 3 * BLOCK - 1) == []
    taken = left.adopt(6 * BLOCK)
    assert [one.sidecar.uri for one in taken] == [pinned.uri, new.uri]
    assert len(instance_slabs(left.instance)) == 2


def test_of_two_slabs_with_one_content_one_is_taken(left: Left) -> None:
    one, other = left.slab(identity="a"), left.slab(identity="a", uri="/another/name")
    newer = left.slab(identity="a", edition=1)
    changed = left.slab(identity="b")
    taken = {again.sidecar.inode for again in left.adopt()}
    assert taken == {other.inode, newer.inode, changed.inode}
    assert one.inode not in taken
    assert len(instance_slabs(left.instance)) == 3


def test_what_another_version_left_goes_whatever_its_instance(left: Left) -> None:
    old = left.slab(version=VERSION - 1)
    nameless = slab_name(secrets.token_hex(4), "", "", 1)
    os.rename(f"/dev/shm{old.slab}", f"/dev/shm{nameless}")
    left.folder.write(msgspec.structs.replace(old, slab=nameless))
    left.folder.mark()
    assert left.adopt() == []
    assert not os.path.exists(f"/dev/shm{nameless}")


def test_slabs_of_a_lost_instance_are_taken_over_under_the_new_one(left: Left) -> None:
    sidecar, spare = left.slab(), left.slab()
    left.instance = secrets.token_hex(4)
    (taken,) = left.adopt(limit_bytes=3 * BLOCK)
    assert taken.sidecar.inode == spare.inode
    assert instance_slabs(left.instance) == [taken.sidecar.slab]
    assert not os.path.exists(f"/dev/shm{sidecar.slab}")


def test_a_link_in_place_of_a_slab_is_neither_taken_nor_followed(
    left: Left, tmp_path: Path
) -> None:
    sidecar = left.slab()
    theirs = tmp_path / "theirs"
    os.link(f"/dev/shm{sidecar.slab}", f"/dev/shm{sidecar.slab}-aside")
    try:
        theirs.write_bytes(b"kept")
        os.unlink(f"/dev/shm{sidecar.slab}")
        os.symlink(theirs, f"/dev/shm{sidecar.slab}")
        assert left.adopt() == []
        assert theirs.read_bytes() == b"kept"
    finally:
        os.unlink(f"/dev/shm{sidecar.slab}")


def test_a_slab_without_blocks_is_not_worth_it(left: Left) -> None:
    left.slab("000")
    left.slab("", size_bytes=0)
    assert left.adopt() == []
