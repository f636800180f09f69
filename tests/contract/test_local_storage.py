"""Local files: the contract on disk and on tmpfs, and the properties that only files have."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs
from tests.contract.storage_contract import SIZE, StorageContract, content
from tests.support.local_sources import listed
from tests.support.unprivileged import as_nobody

from streamer_client.contract.errors import (
    ConfigError,
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotFound,
)
from streamer_client.storage.local import LocalStorage
from streamer_client.storage.local_reader import identity_of


class Directory:
    """A directory as a backend."""

    def __init__(self, directory: Path) -> None:
        self.storage = LocalStorage()
        self.source = str(directory)

    def put(self, name: str, data: bytes) -> None:
        path = Path(self.source, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat().st_mtime_ns if path.exists() else 0
        with path.open("r+b" if before else "xb") as file:
            file.truncate(len(data))
            file.write(data)
        # The clock of file times ticks in milliseconds, so the write may not have changed mtime.
        if before and path.stat().st_mtime_ns == before:
            os.utime(path, ns=(before + 1, before + 1))

    def remove(self, name: str) -> None:
        Path(self.source, name).unlink()

    def uri(self, name: str) -> str:
        return str(Path(self.source, name))


class TestOnDisk(StorageContract):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Directory:
        return Directory(tmp_path)


class TestOnTmpfs(StorageContract):
    """tmpfs refuses RWF_NOWAIT, and on older kernels O_DIRECT."""

    @pytest.fixture
    def backend(self) -> Iterator[Directory]:
        with tempfile.TemporaryDirectory(prefix="storage-test-", dir="/dev/shm") as directory:
            yield Directory(Path(directory))


# --- finding ------------------------------------------------------------------------------------


def test_links_are_followed_under_their_own_names(storage: LocalStorage, tmp_path: Path) -> None:
    """A snapshot of links into a directory of blobs, as in the Hugging Face cache."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "8f3a").write_bytes(b"weights")
    snapshot = tmp_path / "snapshots"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to("../blobs/8f3a")
    shard = listed(storage, snapshot)
    assert shard.uri == str(snapshot / "model.safetensors")
    target = bytearray(7)
    reader = storage.open(shard)
    reader.readinto(memoryview(target), 0)
    reader.close()
    assert target == b"weights"


def test_dead_link(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").symlink_to("../blobs/gone")
    with pytest.raises(SourceError, match=r"link to \.\./blobs/gone, which does not exist"):
        storage.list_shards(str(tmp_path), None, None)


def test_links_in_a_circle(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").symlink_to("m.safetensors")
    with pytest.raises(SourceError, match="circle"):
        storage.list_shards(str(tmp_path), None, None)


def test_directory_in_place_of_a_file(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").mkdir()
    with pytest.raises(SourceError, match=r"m\.safetensors: is a directory"):
        storage.list_shards(str(tmp_path), None, None)
    with pytest.raises(SourceError, match="is a directory"):
        storage.list_shards(str(tmp_path), None, [str(tmp_path)])


def test_fifo_in_place_of_a_file(storage: LocalStorage, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(SourceError, match="no regular file"):
        storage.list_shards(str(tmp_path), None, None)


def test_file_in_place_of_a_directory(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"x")
    with pytest.raises(SourceNotFound, match="no such file or directory"):
        storage.list_shards(str(tmp_path / "m" / "deeper"), None, None)


def test_empty_directory(storage: LocalStorage, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"'\*\.safetensors'; there is: nothing at all"):
        storage.list_shards(str(tmp_path), None, None)


def test_name_that_no_message_can_carry(storage: LocalStorage, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff.safetensors")).write_bytes(b"x")
    with pytest.raises(SourceError, match="not UTF-8"):
        storage.list_shards(str(tmp_path), None, None)


def test_name_that_no_file_can_have(storage: LocalStorage, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="too long"):
        storage.list_shards(str(tmp_path / ("n" * 300)), None, None)
    for text in ("a\0b", ""):
        with pytest.raises(ConfigError, match="no path"):
            storage.list_shards(text, None, None)


def test_relative_paths_become_absolute(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.safetensors").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / "m" / "a.safetensors")
    for source, files in (("m", None), ("./x/../m/", None), ("m", ["a.safetensors"])):
        assert storage.list_shards(source, None, files)[0].uri == expected


def test_file_uris(storage: LocalStorage, tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    (folder / "m#1.safetensors").write_bytes(b"x")
    quoted = f"{tmp_path}/a%20b"
    for source in (f"file://{quoted}", f"file://localhost{quoted}", f"FILE://{quoted}"):
        assert storage.list_shards(source, None, None)[0].uri == str(folder / "m#1.safetensors")
    files = [f"file://{quoted}/m#1.safetensors"]
    assert storage.list_shards("/", None, files)[0].uri == str(folder / "m#1.safetensors")
    with pytest.raises(ConfigError, match="not a file of this host"):
        storage.list_shards("file://elsewhere/m", None, None)


def test_bad_lists_of_files(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ConfigError, match="empty"):
        storage.list_shards(str(tmp_path), None, [])
    with pytest.raises(ConfigError, match=r"twice: .*/a;"):
        storage.list_shards(str(tmp_path), None, ["a", "./a"])


# --- permission: modes do not bind root, so a child of another user tries ------------------------


def test_no_permission_to_read_a_file(storage: LocalStorage, open_dir: Path) -> None:
    path = open_dir / "m.safetensors"
    path.write_bytes(b"x")
    path.chmod(0)
    shard = listed(storage, open_dir)
    told = as_nobody(lambda: storage.open(shard))
    assert told.startswith(f"{SourceForbidden.__name__}: {path}: no permission for user id ")
    assert f"refused at {path}" in told
    assert "chmod" in told


def test_no_permission_to_enter_or_list_a_directory(storage: LocalStorage, open_dir: Path) -> None:
    closed = open_dir / "closed"
    (closed / "m").mkdir(parents=True)
    (closed / "m" / "a.safetensors").write_bytes(b"x")
    closed.chmod(0)
    told = as_nobody(lambda: storage.list_shards(str(closed / "m"), None, None))
    assert told.startswith(SourceForbidden.__name__)
    assert f"refused at {closed}" in told
    told = as_nobody(lambda: storage.list_shards(str(closed), None, None))
    assert told.startswith(SourceForbidden.__name__)
    assert "list the directory" in told
    closed.chmod(0o755)


# --- change -------------------------------------------------------------------------------------


def test_file_replaced_during_the_load_stays_what_it_was(
    storage: LocalStorage, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content(SIZE))
    shard = listed(storage, tmp_path)
    reader = storage.open(shard)
    (tmp_path / "new").write_bytes(content(SIZE, seed=2))
    (tmp_path / "new").replace(path)
    target = bytearray(SIZE)
    reader.readinto(memoryview(target), 0)
    assert target == content(SIZE)
    reader.close()
    with pytest.raises(SourceChanged) as caught:
        storage.open(shard)
    assert f"expected {shard.identity}" in str(caught.value)
    assert f"found {listed(storage, tmp_path).identity}" in str(caught.value)


def test_what_a_daemon_adds_to_an_identity_is_not_asked_of_a_reader(
    storage: LocalStorage, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"abc")
    shard = listed(storage, tmp_path)
    status = path.stat()
    assert identity_of(status, "7", "1000") == f"{shard.identity}:disk7:uid1000"
    assert identity_of(status, owner="1000") == f"{shard.identity}:uid1000"
    storage.open(structs.replace(shard, identity=shard.identity + ":disk7")).close()
    for other in (shard.identity + "0", shard.identity[:-1], shard.identity[:-1] + ":disk7"):
        with pytest.raises(SourceChanged):
            storage.open(structs.replace(shard, identity=other))


def test_bytes_are_told_under_the_ctime_that_they_were_read_under(
    storage: LocalStorage, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"abc")
    reader = storage.open(listed(storage, tmp_path))
    modes = iter((0o600, 0o644))
    reads = 0

    def read() -> int:
        nonlocal reads
        reads += 1
        for mode in modes:  # each of the first two reads changes the mode
            before = path.stat().st_ctime_ns
            # The clock of file times ticks in milliseconds, so one chmod may not change ctime.
            while path.stat().st_ctime_ns == before:
                path.chmod(mode)
            break
        return reads

    assert reader.settled(read) == (3, path.stat().st_ctime_ns)
    modes = iter((0o600, 0o644, 0o600))
    with pytest.raises(SourceChanged, match="3 times in a row"):
        reader.settled(read)
    reader.close()


def test_file_unlinked_during_the_load_is_still_read(storage: LocalStorage, tmp_path: Path) -> None:
    data = content(SIZE)
    (tmp_path / "m.safetensors").write_bytes(data)
    reader = storage.open(listed(storage, tmp_path))
    (tmp_path / "m.safetensors").unlink()
    memory = mmap.mmap(-1, SIZE)
    with memoryview(memory) as target:
        reader.readinto(target, 0)
    assert memory[:] == data
    memory.close()
    reader.close()


def test_reading_past_the_end_is_the_callers_fault(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"abc")
    reader = storage.open(listed(storage, tmp_path))
    with pytest.raises(ValueError, match="past its end"):
        reader.readinto(memoryview(bytearray(3)), 1)
    reader.close()
