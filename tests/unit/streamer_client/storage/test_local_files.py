"""Open files: each is opened once with the rights of this process, and read wherever its name leads
later.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import structs
from tests.support.unprivileged import as_nobody

from streamer_client.contract.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotFound,
)
from streamer_client.storage import local, local_files
from streamer_client.storage.local import LocalStorage, open_regular
from streamer_client.storage.local_files import DescriptorStorage, LocalFile, open_local

DATA = bytes(range(256)) * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (10, 2):
        (tmp_path / f"m-{number}.safetensors").write_bytes(DATA + bytes([number]))
    return tmp_path


def close(files: tuple[LocalFile, ...]) -> None:
    for file in files:
        file.close()
        file.close()


def read(storage: DescriptorStorage, file: LocalFile) -> bytes:
    reader = storage.open(file.shard)
    target = bytearray(file.shard.size_bytes)
    reader.readinto(memoryview(target), 0)
    reader.close()
    return bytes(target)


def test_opens_what_is_listed(folder: Path) -> None:
    files = open_local(str(folder), None, None)
    assert tuple(file.shard for file in files) == LocalStorage().list_shards(
        str(folder), None, None
    )
    assert [file.uri[-16:] for file in files] == ["/m-2.safetensors", "m-10.safetensors"]
    for file in files:
        assert file.ctime_ns == os.stat(file.uri).st_ctime_ns
        flags = fcntl.fcntl(file.fd, fcntl.F_GETFL)
        assert not flags & (os.O_DIRECT | os.O_NONBLOCK)
        assert not os.get_inheritable(file.fd)
        if file.direct_fd is not None:
            assert fcntl.fcntl(file.direct_fd, fcntl.F_GETFL) & os.O_DIRECT
            assert os.path.samestat(os.fstat(file.direct_fd), os.fstat(file.fd))
    close(files)


def test_without_direct(folder: Path) -> None:
    files = open_local(str(folder), "m-2*", None, direct=False)
    assert [file.direct_fd for file in files] == [None]
    close(files)


def test_two_names_of_one_file_are_opened_once(folder: Path) -> None:
    os.link(folder / "m-2.safetensors", folder / "m-3.safetensors")
    (folder / "m-1.safetensors").symlink_to("m-2.safetensors")
    files = open_local(str(folder), None, None)
    assert [os.path.basename(file.uri) for file in files] == ["m-1.safetensors", "m-10.safetensors"]
    close(files)
    names = ["m-2.safetensors", "m-3.safetensors"]
    files = open_local(str(folder), None, names)
    assert [os.path.basename(file.uri) for file in files] == names
    close(files)


def test_errors_are_those_of_listing_and_nothing_stays_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceNotFound, match="no file matches"):
        open_local(str(folder), "*.bin", None)
    (folder / "m-11.safetensors").symlink_to("gone")
    with pytest.raises(SourceError, match="does not exist"):
        open_local(str(folder), None, None)
    (folder / "m-11.safetensors").unlink()
    plain = open_regular

    def vanishing(path: str) -> tuple[int, os.stat_result]:
        if "m-10" in path:
            os.unlink(path)
        return plain(path)

    monkeypatch.setattr(local_files, "open_regular", vanishing)
    with pytest.raises(SourceNotFound, match="m-10"):
        open_local(str(folder), None, None)


def test_a_fifo_swapped_in_after_the_look_does_not_block(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "m-2.safetensors"
    looks = []
    plain = local._status

    def swapping(name: str) -> os.stat_result:
        status = plain(name)
        looks.append(name)
        path.unlink()
        os.mkfifo(path)
        return status

    monkeypatch.setattr(local, "_status", swapping)
    with pytest.raises(SourceError, match="no regular file"):
        LocalFile(str(path))
    assert looks == [str(path)]


def test_a_file_that_may_not_be_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = Path("/tmp") / f"{tmp_path_factory.getbasetemp().name}-closed"
    path.write_bytes(b"x")
    path.chmod(0)
    try:
        told = as_nobody(lambda: LocalFile(str(path)))
    finally:
        path.unlink()
    assert told.startswith(SourceForbidden.__name__)


@contextmanager
def open_files_limit(limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_too_many_open_files_names_the_limit(folder: Path) -> None:
    # The limit is reached at the first file, its descriptor for O_DIRECT, the second file, and its
    # descriptor for O_DIRECT, in this order.
    for extra in range(4):
        free = os.dup(0)
        os.close(free)
        with (
            open_files_limit(free + extra),
            pytest.raises(SourceError, match="ulimit -n"),
        ):
            close(open_local(str(folder), None, None))
    (file, other) = open_local(str(folder), None, None)
    with (
        open_files_limit((other.direct_fd or other.fd) + 1),
        pytest.raises(SourceError, match="ulimit -n"),
    ):
        DescriptorStorage([file]).open(file.shard)
    close((file, other))


def test_reads_what_was_opened_wherever_its_name_leads(folder: Path) -> None:
    files = open_local(str(folder), None, None)
    (folder / "m-2.safetensors").unlink()
    (folder / "other").write_bytes(b"other")
    (folder / "other").rename(folder / "m-10.safetensors")
    storage = DescriptorStorage(files)
    assert storage.list_shards("any", None, None) == tuple(file.shard for file in files)
    assert storage.list_all("any", lambda uri: "10" in uri) == (files[1].shard,)
    assert [read(storage, file) for file in files] == [DATA + b"\2", DATA + b"\n"]
    assert read(storage, files[0]) == DATA + b"\2"  # the first reader closed only its copies
    close(files)


def test_what_is_not_open_is_not_found(folder: Path) -> None:
    files = open_local(str(folder), "m-2*", None)
    storage = DescriptorStorage(files)
    with pytest.raises(SourceNotFound, match="not among the files"):
        storage.open(structs.replace(files[0].shard, uri="/elsewhere"))
    os.utime(files[0].uri, ns=(1, 1))
    with pytest.raises(SourceChanged):
        storage.open(files[0].shard)
    close(files)
    with pytest.raises(SourceNotFound, match="not among the files"):
        storage.open(files[0].shard)
    with pytest.raises(SourceNotFound, match="no file of it was opened"):
        DescriptorStorage(()).list_shards("m", None, None)


def test_where_there_is_no_proc_the_path_is_opened_and_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(folder / "m-2.safetensors")
    plain, lead_to = os.open, path

    def without_proc(way: str, flags: int) -> int:
        if way.startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, "no /proc")
        return plain(lead_to, flags)

    fd, status = open_regular(path)
    monkeypatch.setattr(os, "open", without_proc)
    direct_fd = local_files._open_direct(path, fd, status)
    if direct_fd is not None:
        os.close(direct_fd)
    lead_to = str(folder / "m-10.safetensors")
    assert local_files._open_direct(path, fd, status) is None
    os.close(fd)
