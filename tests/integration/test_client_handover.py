"""The client hands files over with each open and request, and keeps them no longer than needed."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from streamer_client.client import Client
from streamer_client.connecting.requests import named_source
from streamer_client.contract.errors import RequestRefused, SourceNotFound
from streamer_client.contract.messages import Drop, Evict, Open, Pin, Prefetch, Unpin
from streamer_client.delivery.page_cached import in_page_cache
from streamer_client.storage.local_files import LocalFile
from tests.support.checkpoints import random_tensor, write_shard
from tests.support.daemon_script import Script
from tests.support.scripted_daemon import ScriptedDaemon
from tests.support.waiting import eventually

BLOCK = 4096


@pytest.fixture
def script() -> Script:
    return Script(block_bytes=BLOCK, refuse_requests=None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    folder.mkdir()
    for place in range(3):
        stored = {f"w{place}": random_tensor("F32", (50, 33), place)}
        write_shard(folder / f"m{place}.safetensors", stored)
    return folder


def names(source: Path) -> tuple[str, ...]:
    return tuple(str(path) for path in sorted(source.iterdir()))


def targets() -> dict[str, torch.Tensor]:
    return {f"w{place}": torch.zeros(50, 33) for place in range(3)}


# --- loads ----------------------------------------------------------------------------------------


def test_files_go_before_the_open_and_are_dropped_after_it(
    daemon: ScriptedDaemon, client: Client, source: Path
) -> None:
    with client.open(source) as checkpoint:
        assert daemon.handed == [("Open", names(source))]
        (message,) = daemon.seen(Open)
        assert (message.files, message.pattern) == (None, None), "names of files are not asked for"
        eventually(lambda: daemon.seen(Drop))
        assert [one.transfer for one in daemon.seen(Drop)] == [message.transfer]
        assert len(dict(checkpoint.tensors())) == 3
    assert not daemon.ends.living[0].transfers


def test_pattern_and_files_are_the_clients_affair(
    daemon: ScriptedDaemon, client: Client, source: Path
) -> None:
    first, second, third = names(source)
    with client.open(source, pattern="m[12]*"), client.open([third, first]):
        assert daemon.handed == [("Open", (second, third)), ("Open", (third, first))]


def test_two_names_of_one_file_are_one(
    daemon: ScriptedDaemon, client: Client, source: Path
) -> None:
    os.link(source / "m0.safetensors", source / "m8.safetensors")
    (source / "m9.safetensors").symlink_to("m1.safetensors")
    with client.open(source) as checkpoint:
        assert len(checkpoint.catalog) == 3


def test_hundreds_of_files(daemon: ScriptedDaemon, client: Client, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for place in range(150):
        write_shard(many / f"{place}.safetensors", {f"w{place}": ("U8", (3,), b"abc")})
    with client.open(many) as checkpoint:
        assert len(checkpoint.catalog) == 150
    batches = daemon.ends.batches()
    assert sum(files for files, _ in batches) == 150
    assert all(descriptors <= 64 for _, descriptors in batches)


@pytest.mark.parametrize("script", [Script(refuse_files=RequestRefused("10000 files at most"))])
def test_files_that_are_refused(
    daemon: ScriptedDaemon, script: Script, client: Client, source: Path
) -> None:
    with pytest.raises(RequestRefused, match="10000 files at most"):
        client.open(source)
    assert not daemon.seen(Open)
    script.refuse_files = None
    with client.open(source) as checkpoint:
        assert len(checkpoint.catalog) == 3


def test_a_source_that_is_not_there_is_told_without_the_daemon(
    daemon: ScriptedDaemon, client: Client, source: Path
) -> None:
    with pytest.raises(SourceNotFound, match="nowhere"):
        client.open(source / "nowhere")
    assert not daemon.ends.arrived


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Takes interrupts also where a shell runs the tests in its background and has them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize(
    ("script", "wakes"),
    [
        pytest.param(Script(takes_files=False), True, id="a signal"),
        pytest.param(Script(takes_files=False), False, id="a signal right before the wait"),
    ],
)
def test_interrupted_while_files_are_on_their_way(
    daemon: ScriptedDaemon, script: Script, client: Client, source: Path, wakes: bool
) -> None:
    """The files are closed at once, nothing sends them any more, and the connection lives on."""

    def interrupt() -> None:
        eventually(lambda: daemon.ends.arrived)
        if wakes:
            os.kill(os.getpid(), signal.SIGINT)
        else:  # ends no wait, as a signal that came just before one
            _thread.interrupt_main()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        client.open(source)
    interrupting.join()
    assert not daemon.seen(Drop), "a transfer is dropped once its last batch has arrived"
    script.takes_files = True
    eventually(lambda: daemon.seen(Drop), what="Drop")
    with client.open(source) as checkpoint:
        assert len(checkpoint.catalog) == 3
    assert len(daemon.greeted) == 1


# --- files kept for afterwards --------------------------------------------------------------------


@pytest.fixture
def cached(source: Path) -> Path:
    files = [LocalFile(name, direct=False) for name in names(source)]
    told = in_page_cache(files)
    for file in files:
        file.close()
    if not told:
        pytest.skip(f"the file system of {source} does not tell what is cached")
    return source


def test_what_was_read_from_the_page_cache_is_brought_in_through_the_same_files(
    daemon: ScriptedDaemon, client: Client, cached: Path
) -> None:
    with client.open(cached, page_cache=True) as checkpoint:
        checkpoint.load_into(targets())
        assert checkpoint.stats.mode == "page-cache"
        client.admin.status()
        assert not daemon.seen(Drop)
        assert not daemon.seen(Prefetch)
    eventually(lambda: daemon.seen(Drop), what="Drop")
    (opened,), (prefetch,) = daemon.seen(Open), daemon.seen(Prefetch)
    assert prefetch.transfer == opened.transfer == daemon.seen(Drop)[0].transfer
    assert daemon.handed == [("Open", names(cached)), ("Prefetch", names(cached))]
    assert daemon.received.index(prefetch) < daemon.received.index(daemon.seen(Drop)[0])


def test_a_pass_through_the_daemon_lets_the_files_go(
    daemon: ScriptedDaemon, script: Script, client: Client, cached: Path
) -> None:
    """The daemon has the file already, so the client closes it."""
    script.resident_bytes = 1 << 20
    with client.open(cached, page_cache=True) as checkpoint:
        checkpoint.load_into(targets())
        assert checkpoint.stats.mode == "daemon"
        eventually(lambda: daemon.seen(Drop), what="Drop while the load is open")
    client.admin.status()
    assert len(daemon.seen(Drop)) == 1
    assert not daemon.seen(Prefetch)


def test_what_was_never_read_is_let_go_with_the_load(
    daemon: ScriptedDaemon, client: Client, cached: Path
) -> None:
    with client.open(cached, page_cache=True):
        pass
    eventually(lambda: daemon.seen(Drop), what="Drop")
    assert not daemon.seen(Prefetch)


# --- requests of users ----------------------------------------------------------------------------


def test_cache_control_hands_the_files_over(
    daemon: ScriptedDaemon, client: Client, source: Path
) -> None:
    first, *_ = names(source)
    admin = client.admin
    assert admin.prefetch(str(source), "m[01]*") == (names(source)[:2], 200)
    admin.pin(str(source))
    admin.unpin(f"file://{source}")
    assert admin.evict(first, str(source)) == "4 files"
    assert daemon.handed == [
        ("Prefetch", names(source)[:2]),
        ("Pin", names(source)),
        ("Unpin", names(source)),
        ("Evict", (first, *names(source))),
    ]
    eventually(lambda: len(daemon.seen(Drop)) == 4, what="a Drop for each")
    assert not daemon.ends.living[0].transfers


def test_what_cannot_be_opened_any_more_goes_by_its_name(
    daemon: ScriptedDaemon, client: Client, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    gone = str(source.parent / "gone")
    client.admin.evict("gone", "m")
    client.admin.pin(gone)
    client.admin.unpin(gone)
    (evict,), (pin,), (unpin,) = daemon.seen(Evict), daemon.seen(Pin), daemon.seen(Unpin)
    assert evict.sources == (gone, str(source))
    assert (pin.source, pin.transfer, unpin.source, unpin.transfer) == (gone, 0, gone, 0)
    assert daemon.handed == [("Evict", names(source)), ("Pin", ()), ("Unpin", ())]


def test_evicting_everything_names_nothing(daemon: ScriptedDaemon, client: Client) -> None:
    client.admin.evict()
    assert daemon.seen(Evict) == [Evict(daemon.seen(Evict)[0].request_id)]


def test_a_prefetch_needs_its_files(daemon: ScriptedDaemon, client: Client, source: Path) -> None:
    with pytest.raises(SourceNotFound, match="gone"):
        client.admin.prefetch(str(source / "gone"))
    assert not daemon.seen(Prefetch)


def test_a_refused_request_drops_its_files_too(
    daemon: ScriptedDaemon, script: Script, client: Client, source: Path
) -> None:
    script.refuse_requests = RequestRefused("it is leased")
    with pytest.raises(RequestRefused, match="it is leased"):
        client.admin.evict(str(source))
    eventually(lambda: daemon.seen(Drop), what="Drop")


def test_names_of_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_source("m/../n") == str(tmp_path / "n")
    assert named_source("file:///m%20n") == "/m n"
    assert named_source("s3://bucket/m") == "s3://bucket/m"
    assert "hunter2" not in named_source("https://u:hunter2@host/m?token=hunter2")
