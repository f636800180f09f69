"""Files that somebody does something to, before, while and after they are loaded.

Promises shown: a cached shard is its file, not its name; what changes no byte costs nothing but
checksums; what changes a byte is never served as it was, and never mixed.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import write_blocks, write_model
from tests.support.daemon import BLOCK, DaemonProcess, daemons
from tests.support.images import (
    loop_device,
    make_image,
    mounted,
    needs_loop_devices,
    swap_content,
)
from tests.support.visitor import Refusal, Visitor, digest_of, digests_of
from tests.support.waiting import eventually
from tests.support.worlds import (
    needs_root,
    open_files_of,
    shards_of,
    totals_of,
)

BLOCKS = 8


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    with daemons() as made:
        yield made.start(f"--memory-limit={64 * BLOCK}")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of eight blocks."""
    (tmp_path / "m").mkdir()
    return write_blocks(tmp_path / "m" / "m.safetensors", BLOCKS)


@pytest.fixture
def client() -> Iterator[Visitor]:
    with Visitor() as visitor:
        yield visitor


def read_and_proven(daemon: DaemonProcess) -> tuple[int, int]:
    """Bytes read from files so far, and bytes read again for their checksums alone."""
    totals = totals_of(daemon.socket)
    return totals["source_read_bytes"], totals["source_proof_bytes"]


def flip(path: Path, at: int) -> None:
    """Change one byte in place; size and time of last change stay."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


# --- what changes no byte -------------------------------------------------------------------------


def _chmod(file: Path) -> Path:
    file.chmod(0o640)
    return file


def _remove_a_hard_link(file: Path) -> Path:
    other = file.with_suffix(".other")
    other.hardlink_to(file)
    other.unlink()
    return file


def _rename(file: Path) -> Path:
    return file.rename(file.with_name(f"renamed-{file.name}"))


def _move_its_folder(file: Path) -> Path:
    return file.parent.rename(file.parent.with_name("moved")) / file.name


def _set_an_attribute(file: Path) -> Path:
    try:
        os.setxattr(file, "user.seen", b"1")
    except OSError:
        pytest.skip("needs extended attributes")
    return file


TOUCHES: list[Callable[[Path], Path]] = [
    _chmod,
    _remove_a_hard_link,
    _rename,
    _move_its_folder,
    _set_an_attribute,
]
touches = pytest.mark.parametrize("touch", TOUCHES)


@touches
def test_what_is_done_to_a_file_between_two_loads_costs_only_checksums(
    daemon: DaemonProcess, client: Visitor, model: Path, touch: Callable[[Path], Path]
) -> None:
    digest = digest_of(model)
    client.load(daemon.socket, model)
    read, proven = read_and_proven(daemon)
    model = touch(model)
    found = client.load(daemon.socket, model)
    assert found["digests"] == {model.name: digest}
    assert found["resident_bytes"] == BLOCKS * BLOCK
    read_after, proven_after = read_and_proven(daemon)
    assert read_after == read
    assert proven_after - proven <= BLOCKS * BLOCK
    client.load(daemon.socket, model)
    assert read_and_proven(daemon) == (read_after, proven_after)


@touches
def test_what_is_done_to_a_file_while_it_is_held_costs_only_checksums(
    daemon: DaemonProcess, client: Visitor, model: Path, touch: Callable[[Path], Path]
) -> None:
    digest, name = digest_of(model), model.name
    client.ask("connect", socket=daemon.socket)
    client.ask("open", source=str(model))
    client.ask("read", most=2)
    eventually(lambda: resident_of(daemon, model) == [BLOCKS * BLOCK])
    read, _ = read_and_proven(daemon)
    touched = touch(model)
    client.ask("open", source=str(touched), load="b")
    assert client.ask("read", load="b")["digests"] == {touched.name: digest}
    assert client.ask("read")["digests"] == {name: digest}
    assert read_and_proven(daemon)[0] == read


@touches
def test_what_is_done_to_a_file_while_it_is_read_loses_nothing(
    daemon: DaemonProcess, client: Visitor, model: Path, touch: Callable[[Path], Path]
) -> None:
    """In the smallest window: most of it is read after the touch. A read that was under way at that
    moment may have been of either file, and is made again; no other."""
    digest, name = digest_of(model), model.name
    read, _ = read_and_proven(daemon)
    client.ask("connect", socket=daemon.socket)
    client.ask("open", source=str(model), hold=False, memory_limit=0)
    client.ask("read", most=2)
    touch(model)
    found = client.ask("read")
    assert (found["mode"], found["digests"]) == ("daemon", {name: digest})
    in_flight = 4
    assert read_and_proven(daemon)[0] - read <= (BLOCKS + in_flight) * BLOCK


def resident_of(daemon: DaemonProcess, path: Path) -> list[int]:
    return [
        row["resident_bytes"]
        for row in shards_of(daemon.socket)
        if str(path) in (row["uri"], *row["names"])
    ]


def test_a_file_that_was_removed_while_it_is_read_is_read_to_its_end(
    daemon: DaemonProcess, client: Visitor, model: Path
) -> None:
    digests = digests_of([model])
    client.ask("connect", socket=daemon.socket)
    client.ask("open", source=str(model), hold=False, memory_limit=0)
    client.ask("read", most=2)
    model.unlink()
    assert client.ask("read")["digests"] == digests


# --- what changes a byte --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["required", "auto"])
@pytest.mark.parametrize("at", [0, 3 * BLOCK + 5001, BLOCKS * BLOCK - 1])
def test_one_byte_changed_in_place_is_seen(
    daemon: DaemonProcess, client: Visitor, model: Path, at: int, mode: str
) -> None:
    """Size and time of last change kept; also where no sampled page has it."""
    was = client.load(daemon.socket, model)["digests"]
    flip(model, at)
    found = client.load(daemon.socket, model, mode=mode)
    assert found["digests"] == digests_of([model]) != was
    assert found["mode"] == "daemon"
    again = client.load(daemon.socket, model)
    assert (again["digests"], again["resident_bytes"]) == (found["digests"], BLOCKS * BLOCK)


def test_a_byte_changed_through_a_mapping_is_seen(
    daemon: DaemonProcess, client: Visitor, model: Path
) -> None:
    """No write call was made."""
    client.load(daemon.socket, model)
    before = model.stat()
    with model.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[5 * BLOCK + 77] ^= 0xFF
        mapping.flush()
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert client.load(daemon.socket, model)["digests"] == digests_of([model])


def test_a_file_changed_twice_is_seen_twice(
    daemon: DaemonProcess, client: Visitor, model: Path
) -> None:
    """Also where it becomes again what it was at first."""
    for _ in range(3):
        assert client.load(daemon.socket, model)["digests"] == digests_of([model])
        flip(model, 4 * BLOCK)


def test_a_file_changed_in_place_ends_the_loads_of_what_it_was(
    daemon: DaemonProcess, client: Visitor, model: Path
) -> None:
    """Who comes gets the new bytes; who had the old ones hears of it, and is never mixed."""
    with Visitor() as other:
        other.ask("connect", socket=daemon.socket)
        other.ask("open", source=str(model))
        other.ask("read", most=2)
        eventually(lambda: resident_of(daemon, model) == [BLOCKS * BLOCK])
        flip(model, 5 * BLOCK)
        assert client.load(daemon.socket, model)["digests"] == digests_of([model])
        assert other.refused("read").kind == "SourceChanged"
    assert client.load(daemon.socket, model)["digests"] == digests_of([model])


@pytest.mark.parametrize("at", [0, 7 * BLOCK])
@pytest.mark.parametrize("mode", ["required", "auto"])
def test_a_file_changed_in_place_while_it_is_read_is_never_mixed(
    daemon: DaemonProcess, client: Visitor, model: Path, at: int, mode: str
) -> None:
    """A byte that was read already, or one that was not."""
    was = digests_of([model])
    client.ask("connect", socket=daemon.socket, mode=mode)
    client.ask("open", source=str(model), hold=False, memory_limit=0)
    client.ask("read", most=2)
    flip(model, at)
    outcome = _outcome(client)
    assert outcome in ("SourceChanged", digests_of([model])), outcome == was
    assert client.load(daemon.socket, model)["digests"] == digests_of([model])


def _outcome(client: Visitor) -> object:
    try:
        return client.ask("read")["digests"]
    except Refusal as refused:
        return refused.kind


def test_a_file_renamed_over_another_leaves_the_running_load_its_own(
    daemon: DaemonProcess, client: Visitor, model: Path
) -> None:
    was = digests_of([model])
    client.ask("connect", socket=daemon.socket)
    client.ask("open", source=str(model), hold=False, memory_limit=0)
    client.ask("read", most=2)
    fresh = write_blocks(model.with_name("m"), BLOCKS, seed=3)
    shutil.copystat(model, fresh)
    fresh.rename(model)
    client.ask("open", source=str(model), load="b")
    assert client.ask("read", load="b")["digests"] == digests_of([model]) != was
    assert client.ask("read")["digests"] == was


# --- one file, many names -------------------------------------------------------------------------


def test_a_file_of_four_names_is_read_and_kept_once(
    daemon: DaemonProcess, client: Visitor, tmp_path: Path
) -> None:
    """One blob under two snapshots, as in a Hugging Face cache; a link to a folder; a hard link."""
    blobs, one, two = (tmp_path / name for name in ("blobs", "snapshots/a", "snapshots/b"))
    for folder in (blobs, one, two):
        folder.mkdir(parents=True)
    blob = write_blocks(blobs / "0123abcd", 4)
    names = [one / "m.safetensors", two / "m.safetensors", tmp_path / "hard.safetensors"]
    for name in names[:2]:
        name.symlink_to("../../blobs/0123abcd")
    names[2].hardlink_to(blob)
    (tmp_path / "link").symlink_to(two)
    names.append(tmp_path / "link" / "m.safetensors")
    read, _ = read_and_proven(daemon)
    slabs = len(shards_of(daemon.socket))
    for name in names:
        assert client.load(daemon.socket, name)["digests"] == {name.name: digest_of(blob)}
    assert read_and_proven(daemon)[0] - read == 4 * BLOCK
    assert len(shards_of(daemon.socket)) - slabs == 1


@needs_root()
def test_a_bind_mount_of_a_file_is_the_file(
    daemon: DaemonProcess, client: Visitor, model: Path, tmp_path: Path
) -> None:
    client.load(daemon.socket, model)
    with mounted(tmp_path / "elsewhere", "--bind", str(model.parent)) as folder:
        found = client.load(daemon.socket, folder)
    assert found["resident_bytes"] == BLOCKS * BLOCK


# --- file systems that repeat every number --------------------------------------------------------


def numbers_of(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@needs_root()
def test_a_tmpfs_made_again_with_the_same_numbers_is_another(
    daemon: DaemonProcess, client: Visitor, tmp_path: Path
) -> None:
    """Device, inode, size and time of last change are the same; no image or loop device needed."""
    seen = []
    for seed in (1, 2):
        with mounted(tmp_path / "fs", "-t", "tmpfs", "tmpfs") as folder:
            file = write_blocks(folder / "m.safetensors", 4, seed=seed)
            os.utime(file, ns=(10**18, 10**18))
            seen.append(numbers_of(file))
            assert client.load(daemon.socket, file)["digests"] == digests_of([file])
    if seen[0] != seen[1]:
        pytest.skip("this kernel gave the second tmpfs other numbers: somebody else mounts too")


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    """Two file systems that differ in what one file holds, and in nothing that `fstat` tells."""
    one, other = make_image(tmp_path / "one.img"), tmp_path / "other.img"
    old = write_blocks(tmp_path / "m", 4, seed=1)
    with loop_device(one) as device, mounted(tmp_path / "fs", device) as folder:
        shutil.copy2(old, folder / "m.safetensors")
    shutil.copy(one, other)
    new = write_blocks(tmp_path / "m", 4, seed=2).read_bytes()
    with loop_device(one) as device, mounted(tmp_path / "fs", device) as folder:
        first = (folder / "m.safetensors").read_bytes()
    swap_content(other, first, new)
    return one, other


@needs_root()
@needs_loop_devices()
@pytest.mark.parametrize("mode", ["required", "auto"])
def test_another_image_in_the_place_of_one_is_another(
    daemon: DaemonProcess, client: Visitor, tmp_path: Path, images: tuple[Path, Path], mode: str
) -> None:
    seen, digests = [], []
    for image in images:
        with loop_device(image) as device, mounted(tmp_path / "fs", "-o", "ro", device) as folder:
            file = folder / "m.safetensors"
            seen.append((*numbers_of(file), file.stat().st_ctime_ns))
            found = client.load(daemon.socket, file, mode=mode)
            assert found["digests"] == digests_of([file])
            digests.append(found["digests"])
    assert seen[0][1:] == seen[1][1:]
    assert digests[0] != digests[1]


@needs_root()
@needs_loop_devices()
@pytest.mark.parametrize("mode", ["required", "auto"])
def test_an_image_changed_below_its_device_is_seen_by_its_pages(
    daemon: DaemonProcess, client: Visitor, tmp_path: Path, images: tuple[Path, Path], mode: str
) -> None:
    """Everything is repeated, the time of last change of the inode and the disk's own number too:
    only what the file holds differs."""
    one, other = images
    seen = []
    with loop_device(one) as device:
        for content in (None, other):
            if content is not None:
                with open(device, "r+b") as disk:
                    disk.write(content.read_bytes())
            with mounted(tmp_path / "fs", "-o", "ro", device) as folder:
                file = folder / "m.safetensors"
                seen.append((*numbers_of(file), file.stat().st_ctime_ns))
                outcome = _whole(client, daemon, file, mode)
                assert outcome == digests_of([file])
    assert seen[0] == seen[1]


def _whole(client: Visitor, daemon: DaemonProcess, file: Path, mode: str) -> object:
    """What a load gives; once more where the first finds that memory holds something else."""
    try:
        return client.load(daemon.socket, file, mode=mode)["digests"]
    except Refusal as refused:
        if refused.kind != "SourceChanged":
            raise
        client.ask("close")
    return client.load(daemon.socket, file, mode=mode)["digests"]


# --- what is left open ----------------------------------------------------------------------------


@needs_root()
@pytest.mark.parametrize("hold", [True, False])
def test_after_a_load_nobody_has_the_files_open(
    daemon: DaemonProcess, tmp_path: Path, hold: bool
) -> None:
    """Unmounting works, and removing files gives their space back, whatever stays in memory."""
    with mounted(tmp_path / "fs", "-t", "tmpfs", "-o", "size=16m", "tmpfs") as folder:
        empty = os.statvfs(folder).f_bfree
        files = write_model(folder / "m", shards=2, blocks=4)
        with Visitor() as client:
            client.load(daemon.socket, folder / "m", hold=hold)
            eventually(lambda: not _open_below(daemon, folder))
        shutil.rmtree(folder / "m")
        eventually(lambda: os.statvfs(folder).f_bfree == empty)
    assert not any(file.exists() for file in files)


def _open_below(daemon: DaemonProcess, folder: Path) -> list[str]:
    return [path for path in open_files_of(daemon.pid) if path.startswith(str(folder))]


def test_while_a_complete_shard_is_held_the_daemon_has_its_file_not_open(
    daemon: DaemonProcess, client: Visitor, model: Path
) -> None:
    client.ask("connect", socket=daemon.socket)
    client.ask("open", source=str(model))
    client.ask("read")
    eventually(lambda: not _open_below(daemon, model.parent))


@pytest.mark.parametrize("how", ["evict", "prefetch", "kill", "change"])
def test_whatever_ends_a_load_its_files_are_closed(
    daemon: DaemonProcess, model: Path, how: str
) -> None:
    with Visitor() as client:
        client.ask("connect", socket=daemon.socket)
        if how == "prefetch":
            client.ask("prefetch", source=str(model))
        elif how == "kill":
            client.ask("open", source=str(model), hold=False, memory_limit=0)
            client.ask("read", most=1)
            client.kill()
        else:
            client.load(daemon.socket, model)
            if how == "change":
                flip(model, BLOCK)
                client.load(daemon.socket, model)
            else:
                client.ask("connect", socket=daemon.socket)
                client.ask("evict", source=str(model))
        eventually(lambda: not _open_below(daemon, model.parent))
