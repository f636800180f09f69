"""A first load reads files from the page cache where they lie there, and the daemon brings them in
afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from streamer_client.client import Client, daemon_client
from streamer_client.contract.errors import SourceChanged
from streamer_client.delivery.page_cached import in_page_cache
from streamer_client.storage.local_files import LocalFile
from tests.support.checkpoints import write_model
from tests.support.cold_files import make_cold
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.waiting import eventually


@pytest.fixture
def streamerd(daemon_maker: Daemons) -> DaemonProcess:
    """A daemon with room for the checkpoint."""
    return daemon_maker.start(f"--memory-limit={64 * BLOCK}")


@pytest.fixture
def client(streamerd: DaemonProcess) -> Iterator[Client]:
    with daemon_client(streamerd.socket) as opened:
        yield opened


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two shards of five blocks, just written."""
    paths = write_model(tmp_path / "m", shards=2, blocks=5)
    if not cached(paths):
        pytest.skip(f"the file system of {tmp_path} does not tell what is cached")
    return paths


def cached(paths: list[Path]) -> bool:
    """Whether all of the files are in the page cache."""
    with contextlib.ExitStack() as opened:
        files = [LocalFile(str(path), direct=False) for path in paths]
        for file in files:
            opened.callback(file.close)
        return in_page_cache(files)


def size_bytes(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def drop(paths: list[Path]) -> None:
    """Drop the files from the page cache, or skip the test where they stay."""
    for path in paths:
        make_cold(path)
    if cached(paths):
        pytest.skip(f"the file system of {paths[0]} does not let go of what is cached")


def stored_in(files: list[Path]) -> dict[str, torch.Tensor]:
    """All tensors of the files in memory of their own, since mapped files would stay in the page
    cache.
    """
    return {name: one.clone() for file in files for name, one in load_file(file).items()}


def filled(client: Client, paths: list[Path], **options: object) -> tuple[bool, str, int]:
    """Load into tensors; returns whether all are right, the route that they came by, and how many
    bytes were resident.
    """
    stored = stored_in(paths)
    targets = {name: torch.zeros_like(one) for name, one in stored.items()}
    options = {"page_cache": True} | options
    with client.open(paths[0].parent, **options) as checkpoint:  # type: ignore[arg-type]
        checkpoint.load_into(targets)
        stats = checkpoint.stats
    right = all(torch.equal(targets[name], one) for name, one in stored.items())
    return right, stats.mode, stats.resident_bytes


def settled(streamerd: DaemonProcess, size: int) -> bool:
    """Whether the daemon has this many bytes in memory and reads nothing more."""
    resident = sum(one["resident_bytes"] for one in streamerd.shards().values())
    return resident == size and streamerd.reads_under_way() == 0


def test_the_daemon_counts_where_it_was_copied_from(
    streamerd: DaemonProcess, client: Client, files: list[Path]
) -> None:
    assert filled(client, files)[1] == "page-cache"
    copied_bytes = sum(one.nbytes for one in stored_in(files).values())
    names = ("copied_bytes", "copied_page_cache_bytes", "copied_direct_bytes")

    def told(*figures: int) -> bool:
        totals = streamerd.totals()
        return tuple(totals[name] for name in names) == figures

    eventually(lambda: told(copied_bytes, copied_bytes, 0))
    eventually(lambda: settled(streamerd, size_bytes(files)))
    assert filled(client, files)[1] == "daemon"
    eventually(lambda: told(2 * copied_bytes, copied_bytes, 0))


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_files_are_read_from_the_page_cache_and_brought_in_afterwards(
    streamerd: DaemonProcess, client: Client, files: list[Path], hold: bool, named: bool
) -> None:
    named_files = {"files": files} if named else {}
    assert filled(client, files, hold=hold, **named_files) == (True, "page-cache", 0)
    eventually(lambda: settled(streamerd, size_bytes(files)))
    again = filled(client, files, hold=hold, **named_files)
    assert again == (True, "daemon", size_bytes(files))
    assert streamerd.totals()["source_read_bytes"] == size_bytes(files)


def test_only_the_files_that_were_named_are_brought_in(
    streamerd: DaemonProcess, client: Client, files: list[Path]
) -> None:
    assert filled(client, files[:1], pattern="m-0*") == (True, "page-cache", 0)
    eventually(lambda: settled(streamerd, size_bytes(files[:1])))
    assert list(streamerd.shards()) == [str(files[0])]


def test_two_loads_at_once_bring_it_in_once(streamerd: DaemonProcess, files: list[Path]) -> None:
    with daemon_client(streamerd.socket) as one, daemon_client(streamerd.socket) as other:
        with ThreadPoolExecutor(2) as pool:
            found = [pool.submit(filled, client, files) for client in (one, other)]
        assert all(each.result()[0] for each in found)
    eventually(lambda: settled(streamerd, size_bytes(files)))
    assert streamerd.totals()["source_read_bytes"] == size_bytes(files)


@pytest.mark.parametrize("options", [{"page_cache": False}, {"memory_limit": 8 * BLOCK}])
def test_through_the_daemon_unless_asked_and_unlimited(
    client: Client, files: list[Path], options: dict[str, object]
) -> None:
    assert filled(client, files, **options)[:2] == (True, "daemon")


def test_what_is_on_disk_alone_comes_through_the_daemon(
    streamerd: DaemonProcess, client: Client, files: list[Path]
) -> None:
    stored = stored_in(files)
    drop(files)
    targets = {name: torch.zeros_like(one) for name, one in stored.items()}
    with client.open(files[0].parent, page_cache=True) as checkpoint:
        checkpoint.load_into(targets)
        assert checkpoint.stats.mode == "daemon"
    assert all(torch.equal(targets[name], one) for name, one in stored.items())


def test_views_are_of_shared_memory_all_the_same(client: Client, files: list[Path]) -> None:
    with client.open(files[0].parent, page_cache=True) as checkpoint:
        assert len(list(checkpoint.tensors())) == 10
        assert checkpoint.stats.mode == "daemon"


def test_a_part_of_it_comes_through_the_daemon(client: Client, files: list[Path]) -> None:
    name, stored = next(iter(load_file(files[1]).items()))
    target = torch.zeros_like(stored)
    with client.open(files[0].parent, page_cache=True) as checkpoint:
        checkpoint.load_into({name: target}, strict=False)
        assert checkpoint.stats.mode == "daemon"
    assert torch.equal(target, stored)


def test_a_second_pass_and_views_after_it(client: Client, files: list[Path]) -> None:
    stored = stored_in(files)
    targets = {name: torch.zeros_like(one) for name, one in stored.items()}
    with client.open(files[0].parent, page_cache=True) as checkpoint:
        for _ in range(2):
            for target in targets.values():
                target.zero_()
            checkpoint.load_into(targets)
            assert all(torch.equal(targets[name], one) for name, one in stored.items())
        assert all(torch.equal(one, stored[name]) for name, one in checkpoint.tensors())
        assert checkpoint.stats.mode == "page-cache"


def test_a_part_after_everything_leaves_the_promise_to_bring_it_in(
    streamerd: DaemonProcess, client: Client, files: list[Path]
) -> None:
    stored = stored_in(files)
    targets = {name: torch.zeros_like(one) for name, one in stored.items()}
    name = next(iter(stored))
    with client.open(files[0].parent, page_cache=True) as checkpoint:
        checkpoint.load_into(targets)
        checkpoint.load_into({name: targets[name]}, strict=False)
        assert checkpoint.stats.mode == "page-cache"
    eventually(lambda: settled(streamerd, size_bytes(files)))


@pytest.mark.parametrize("hold", [True, False])
def test_the_daemon_reads_nothing_of_what_the_page_cache_delivers(
    streamerd: DaemonProcess, client: Client, files: list[Path], hold: bool
) -> None:
    stored = stored_in(files)
    targets = {name: torch.zeros_like(one) for name, one in stored.items()}
    with client.open(files[0].parent, page_cache=True, hold=hold) as checkpoint:
        client.admin.status()
        assert streamerd.reads_under_way() == 0
        checkpoint.load_into(targets)
        assert checkpoint.stats.mode == "page-cache"
        assert streamerd.totals()["source_read_bytes"] == 0
    eventually(lambda: settled(streamerd, size_bytes(files)))
    assert streamerd.totals()["source_read_bytes"] == size_bytes(files)


def test_a_catalog_before_such_a_load_has_the_daemon_read_the_headers_alone(
    streamerd: DaemonProcess, client: Client, files: list[Path]
) -> None:
    stored = stored_in(files)
    targets = {name: torch.zeros_like(one) for name, one in stored.items()}
    with client.open(files[0].parent, page_cache=True) as checkpoint:
        assert len(checkpoint.catalog) == len(stored)
        checkpoint.load_into(targets)
        assert checkpoint.stats.mode == "page-cache"
        assert streamerd.totals()["source_read_bytes"] == len(files) * BLOCK


def test_what_the_daemon_brought_in_meanwhile_stays_its_own(
    client: Client, files: list[Path]
) -> None:
    stored = stored_in(files)
    targets = {name: torch.zeros_like(one) for name, one in stored.items()}
    drop(files)
    with client.open(files[0].parent, page_cache=True) as checkpoint:
        checkpoint.load_into(targets)
        for file in files:
            file.read_bytes()
        assert cached(files)
        checkpoint.load_into(targets)
        assert checkpoint.stats.mode == "daemon"
    assert all(torch.equal(targets[name], one) for name, one in stored.items())


def test_a_pass_that_was_given_up_brings_nothing_in(daemon_maker: Daemons, tmp_path: Path) -> None:
    streamerd = daemon_maker.start(f"--memory-limit={512 * BLOCK}")
    files = write_model(tmp_path / "m", shards=2, blocks=150)  # more blocks than are copied ahead
    targets = {name: torch.zeros_like(one) for name, one in stored_in(files).items()}

    def stop(name: str, size_bytes: int) -> None:
        raise KeyboardInterrupt

    with daemon_client(streamerd.socket) as client:
        with (
            pytest.raises(KeyboardInterrupt),
            client.open(files[0].parent, page_cache=True) as checkpoint,
        ):
            checkpoint.load_into(targets, on_tensor=stop)
        client.admin.prefetch(str(files[0].parent))
        eventually(lambda: settled(streamerd, size_bytes(files)))
        eventually(lambda: "event=prefetch_done" in streamerd.log)
        assert streamerd.log.count("event=prefetch_done") == 1


def test_a_file_that_changes_is_never_mixed(client: Client, files: list[Path]) -> None:
    stored = stored_in(files)
    targets = {name: torch.zeros_like(one) for name, one in stored.items()}
    with client.open(files[0].parent, page_cache=True) as checkpoint:
        files[1].write_bytes(files[0].read_bytes())
        try:
            checkpoint.load_into(targets)
        except SourceChanged:
            return
    # No error was raised, so the daemon had read the whole file before it changed.
    assert all(torch.equal(targets[name], one) for name, one in stored.items())


def test_files_that_cannot_be_asked_are_not_cached(files: list[Path]) -> None:
    closed = LocalFile(str(files[0]))
    closed.close()
    assert not in_page_cache([closed])


def test_an_empty_file_has_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert cached([tmp_path / "empty"])
