"""Which sidecars are written, and when one is written again."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from tests.support.in_loop import in_loop
from tests.support.paper_daemon import PaperClient, PaperDaemon, file, paper_daemon

from streamer_client.contract import messages as m
from streamerd.persist.sidecar_writer import LAST_USE_S, LOOK_S, SidecarWriter
from streamerd.reading.backing import Name
from streamerd.shm.sidecars import Sidecar, SidecarFolder
from streamerd.state.events import Tick


class Written:
    """A writer over a daemon of paper, and the files in its folder."""

    def __init__(self, daemon: PaperDaemon, directory: Path) -> None:
        self.folder = SidecarFolder(str(directory / "s"))
        self.folder.make()
        self.writer = SidecarWriter(self.folder, daemon.parts.model, daemon.parts.backings)

    def flush(self, leased_s: float = 0.0, *, exact: bool = False) -> bool:
        return self.writer.flush(leased_s, exact=exact)

    def sidecars(self) -> list[Sidecar]:
        return sorted(self.folder.read_all(), key=lambda sidecar: sidecar.uri)


async def loaded(daemon: PaperDaemon, *inodes: int) -> PaperClient:
    client = daemon.connect()
    client.open(*(file(inode) for inode in inodes), hold=True)
    await daemon.work()
    return client


@in_loop
async def test_a_sidecar_says_what_its_slab_has(tmp_path: Path) -> None:
    async with paper_daemon() as daemon:
        await loaded(daemon, 1)
        written = Written(daemon, tmp_path)
        assert written.flush()
        (sidecar,) = written.sidecars()
        (backing,) = daemon.parts.backings.values()
        assert (sidecar.uri, sidecar.slab) == ("/world/1", backing.slab_name)
        assert sidecar.resident == bytes([1, 1, 1])
        assert sidecar.checksums == backing.checksums.packed()
        assert [label.text for label in sidecar.labels] == ["/world/1"]
        assert written.writer.has(backing.slab_name)


@in_loop
async def test_a_shard_with_nothing_in_memory_has_no_sidecar(tmp_path: Path) -> None:
    async with paper_daemon() as daemon:
        daemon.connect().open(file(1), want="none")
        await daemon.settle()
        written = Written(daemon, tmp_path)
        assert written.flush()
        assert written.sidecars() == []


@in_loop
async def test_the_sidecar_of_an_evicted_shard_goes(tmp_path: Path) -> None:
    async with paper_daemon() as daemon:
        client = await loaded(daemon, 1, 2)
        written = Written(daemon, tmp_path)
        assert written.flush()
        client.say(m.Close(1))
        client.say(m.Evict(2, ("/world/1",)))
        await daemon.work()
        assert written.flush()
        assert [sidecar.uri for sidecar in written.sidecars()] == ["/world/2"]


@in_loop
async def test_a_sidecar_that_cannot_be_replaced_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with paper_daemon() as daemon:
        await loaded(daemon, 1)
        written = Written(daemon, tmp_path)
        assert written.flush()
        before = written.sidecars()
        (backing,) = daemon.parts.backings.values()
        backing.note_name(Name(1000, 1, "/other/name"))

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "no space left")

        with monkeypatch.context() as patched:
            patched.setattr(SidecarFolder, "write", full)
            assert not written.flush()
        assert written.sidecars() == before
        assert written.flush()
        (after,) = written.sidecars()
        assert [label.text for label in after.labels] == ["/world/1", "/other/name"]


@in_loop
async def test_a_later_use_alone_is_written_only_when_it_is_much_later(tmp_path: Path) -> None:
    async with paper_daemon() as daemon:
        await loaded(daemon, 1)
        written = Written(daemon, tmp_path)
        first_s = daemon.parts.turns.now_s + 1000
        written.flush(first_s)
        written.flush(first_s + LAST_USE_S - 1)
        assert written.sidecars()[0].last_used_s == first_s
        written.flush(first_s + LAST_USE_S - 1, exact=True)
        assert written.sidecars()[0].last_used_s == first_s + LAST_USE_S - 1
        written.flush(first_s + 3 * LAST_USE_S)
        assert written.sidecars()[0].last_used_s == first_s + 3 * LAST_USE_S


@in_loop
async def test_a_pin_is_written_at_once(tmp_path: Path) -> None:
    async with paper_daemon() as daemon:
        client = await loaded(daemon, 1)
        written = Written(daemon, tmp_path)
        written.flush()
        client.say(m.Pin(5, "/world/1"))
        written.flush()
        (sidecar,) = written.sidecars()
        assert (sidecar.pinned, sidecar.pinned_by) == (True, (1000,))


@in_loop
async def test_all_are_written_again_after_the_folder_was_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with paper_daemon() as daemon:
        client = await loaded(daemon, 1, 2)
        written = Written(daemon, tmp_path)
        written.flush()
        shutil.rmtree(written.folder.path)
        client.say(m.Pin(5, "/world/1"))
        assert not written.flush()
        assert caplog.text.count("event=sidecar_not_written") == 1
        assert written.flush()
        assert [sidecar.uri for sidecar in written.sidecars()] == ["/world/1", "/world/2"]


@in_loop
async def test_shards_are_compared_again_only_after_a_change_or_a_while(tmp_path: Path) -> None:
    async with paper_daemon() as daemon:
        client = await loaded(daemon, 1)
        written, turns = Written(daemon, tmp_path), daemon.parts.turns

        def names(after_s: float) -> list[str]:
            written.writer.keep_up(turns.changes, 1000 + after_s, 0.0)
            (sidecar,) = written.sidecars()
            return [label.text for label in sidecar.labels]

        assert names(0) == ["/world/1"]
        (backing,) = daemon.parts.backings.values()
        backing.note_name(Name(1000, 1, "/other"))
        turns.decide(Tick(turns.now_s))
        assert names(LOOK_S / 2) == ["/world/1"]
        assert names(LOOK_S) == ["/world/1", "/other"]
        backing.note_name(Name(1000, 1, "/third"))
        client.say(m.Pin(5, "/world/1"))
        assert names(LOOK_S) == ["/world/1", "/other", "/third"]


@in_loop
async def test_what_could_not_be_written_is_tried_again_without_a_change(tmp_path: Path) -> None:
    async with paper_daemon() as daemon:
        await loaded(daemon, 1)
        written = Written(daemon, tmp_path)
        shutil.rmtree(written.folder.path)
        for _ in range(2):
            written.writer.keep_up(daemon.parts.turns.changes, 1000, 0.0)
        assert [sidecar.uri for sidecar in written.sidecars()] == ["/world/1"]
