"""The cache outlives its daemon: what a restart keeps, and what it must not serve."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamer_client.contract import messages as m
from streamer_client.contract.layout import PAGE_BYTES, SAMPLES
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually

End = Callable[[DaemonProcess], object]
ends = pytest.mark.parametrize("end", [DaemonProcess.stop, DaemonProcess.kill])


@pytest.fixture
def model(tmp_path: Path) -> list[Path]:
    """A model of two shards of five blocks."""
    return write_model(tmp_path / "m", shards=2, blocks=5)


def load(daemon: DaemonProcess, source: Path, **options: Any) -> list[bytes]:
    with RawClient(daemon.socket) as client:
        return client.open(str(source), **options).read_all()


def loaded(daemon: DaemonProcess, source: Path) -> None:
    """Load a model, and wait until the sidecars record it."""
    with RawClient(daemon.socket) as client:
        opened = client.open(str(source), hold=True)
        opened.await_grants(len(opened.blocks))
    eventually(lambda: written_blocks(daemon) >= 10)


def written_blocks(daemon: DaemonProcess) -> int:
    return sum(sum(sidecar.resident) for sidecar in _sidecars(daemon))


def bytes_of(files: list[Path]) -> list[bytes]:
    return [file.read_bytes() for file in files]


def read_by_workers(daemon: DaemonProcess) -> int:
    """Bytes that the workers asked the kernel to read, from files or slabs."""
    total = 0
    for pid in daemon.status()["workers"]:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            name, _, value = line.partition(": ")
            total += int(value) if name == "rchar" else 0
    return total


@ends
def test_a_restart_keeps_what_is_resident(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path], end: End
) -> None:
    loaded(streamerd, tmp_path / "m")
    end(streamerd)
    streamerd.start()
    eventually(lambda: [r["state"] for r in streamerd.shards().values()] == ["resident"] * 2)
    before = read_by_workers(streamerd)
    assert load(streamerd, tmp_path / "m") == bytes_of(model)
    assert streamerd.totals()["source_read_bytes"] == 0
    assert streamerd.totals()["block_misses"] == 0
    compared_bytes = len(model) * 2 * SAMPLES * PAGE_BYTES
    # The workers read the compared pages and messages about jobs, but no block.
    assert read_by_workers(streamerd) - before < compared_bytes + BLOCK
    assert streamerd.status()["memory"]["used_bytes"] == 10 * BLOCK == streamerd.allocated_bytes()


@ends
def test_restarts_in_a_row(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path], end: End
) -> None:
    loaded(streamerd, tmp_path / "m")
    for _ in range(3):
        end(streamerd)
        streamerd.start()
    assert load(streamerd, tmp_path / "m") == bytes_of(model)
    assert streamerd.totals()["source_read_bytes"] == 0


def test_a_changed_byte_after_a_kill_is_read_again(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path]
) -> None:
    loaded(streamerd, tmp_path / "m")
    slab = streamerd.shards()[str(model[1])]["slab"]
    streamerd.kill()
    with open(f"/dev/shm{slab}", "r+b") as file:
        file.seek(3 * BLOCK + 17)
        byte = file.read(1)[0]
        file.seek(3 * BLOCK + 17)
        file.write(bytes([byte ^ 1]))
    streamerd.start()
    assert load(streamerd, tmp_path / "m") == bytes_of(model)
    assert streamerd.totals()["source_read_bytes"] == BLOCK
    assert "event=adopted_block_refused" in streamerd.log


@ends
def test_a_file_that_changed_meanwhile_is_not_served(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path], end: End
) -> None:
    loaded(streamerd, tmp_path / "m")
    end(streamerd)
    write_model(tmp_path / "m", shards=2, blocks=5, seed=7)
    streamerd.start()
    old = set(streamerd.segments())
    assert load(streamerd, tmp_path / "m") == bytes_of(model)
    assert streamerd.totals()["source_read_bytes"] == 10 * BLOCK
    eventually(lambda: len(streamerd.segments()) == 2)
    assert old.isdisjoint(streamerd.segments())


@ends
def test_a_file_that_was_rewritten_under_the_same_numbers_is_not_served(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path], end: End
) -> None:
    """The file's size and mtime are as before; only its ctime raises the doubt."""
    loaded(streamerd, tmp_path / "m")
    end(streamerd)
    before = model[1].stat()
    with model[1].open("r+b") as file:
        file.seek(3 * BLOCK + 17)
        file.write(b"other bytes")
    os.utime(model[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    streamerd.start()
    assert load(streamerd, tmp_path / "m") == bytes_of(model)
    assert streamerd.totals()["source_read_bytes"] == 5 * BLOCK


@ends
def test_a_file_that_was_only_touched_is_not_read_again(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path], end: End
) -> None:
    loaded(streamerd, tmp_path / "m")
    end(streamerd)
    for file in model:
        file.chmod(0o600)
        os.link(file, file.with_suffix(".link"))
    streamerd.start()
    assert load(streamerd, tmp_path / "m") == bytes_of(model)
    totals = streamerd.totals()
    assert (totals["source_read_bytes"], totals["source_proof_bytes"]) == (0, 10 * BLOCK)


def test_a_file_that_is_gone_stays_until_it_is_given_up_by_name(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path]
) -> None:
    """A starting daemon looks at no source: it judges resident bytes by their slab alone."""
    loaded(streamerd, tmp_path / "m")
    with RawClient(streamerd.socket) as client:
        client.request(m.Pin(client.next_id(), str(model[0])), m.Done)
    streamerd.stop()
    model[0].unlink()
    streamerd.start()
    assert streamerd.shards()[str(model[0])]["pinned"]
    with RawClient(streamerd.socket) as client:
        client.request(m.Unpin(client.next_id(), str(model[0])), m.Done)
        client.request(m.Evict(client.next_id(), (str(model[0]),)), m.Done)
    assert set(streamerd.shards()) == {str(model[1])}


def test_a_lower_limit_keeps_what_was_used_last(daemon_maker: Daemons, tmp_path: Path) -> None:
    daemon = daemon_maker.start()
    for name in ("a", "b"):
        write_model(tmp_path / name, shards=1, blocks=6)
        with RawClient(daemon.socket) as client:
            client.open(str(tmp_path / name), hold=True).await_grants(6)
    daemon.stop()
    daemon.replace_flag(f"--memory-limit={8 * BLOCK}")
    daemon.start()
    assert [Path(uri).parent.name for uri in daemon.shards()] == ["b"]
    assert daemon.allocated_bytes() == 6 * BLOCK


@ends
def test_pins_survive(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path], end: End
) -> None:
    loaded(streamerd, tmp_path / "m")
    with RawClient(streamerd.socket) as client:
        client.request(m.Pin(client.next_id(), str(model[0])), m.Done)
    eventually(lambda: any(sidecar.pinned for sidecar in _sidecars(streamerd)))
    end(streamerd)
    streamerd.start()
    pinned = {uri: row["pinned"] for uri, row in streamerd.shards().items()}
    assert pinned == {str(model[0]): True, str(model[1]): False}


@ends
def test_what_is_known_of_a_file_survives(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path], end: End
) -> None:
    """A shard's edition, names, time of its last proof, and the users who pinned it survive."""
    other_name = tmp_path / "m" / "other-name"
    os.link(model[0], other_name)
    loaded(streamerd, tmp_path / "m")
    before = model[0].stat()
    with model[0].open("r+b") as file:
        file.write(b"other")
    os.utime(model[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    load(streamerd, tmp_path / "m")
    load(streamerd, other_name)
    with RawClient(streamerd.socket) as client:
        client.request(m.Pin(client.next_id(), str(model[0])), m.Done)

    def known() -> Any:
        (sidecar,) = (s for s in _sidecars(streamerd) if s.uri == str(model[0]))
        names = [label.text for label in sidecar.labels]
        return sidecar.edition, names, sidecar.ctime_ns, sidecar.pinned_by, sum(sidecar.resident)

    names = [str(model[0]), str(other_name)]
    expected = 1, names, model[0].stat().st_ctime_ns, (os.getuid(),), 5
    eventually(lambda: known() == expected)
    end(streamerd)
    streamerd.start()
    assert streamerd.shards()[str(model[0])]["names"] == [str(other_name)]
    assert load(streamerd, other_name) == [model[0].read_bytes()]
    totals = streamerd.totals()
    assert (totals["source_read_bytes"], totals["source_proof_bytes"]) == (0, 0)
    eventually(lambda: known()[:1] + known()[2:] == expected[:1] + expected[2:])
    with RawClient(streamerd.socket) as client:
        client.request(m.Unpin(client.next_id(), str(other_name)), m.Done)


def test_a_pin_without_room_is_let_go_and_told(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path]
) -> None:
    loaded(streamerd, tmp_path / "m")
    with RawClient(streamerd.socket) as client:
        client.request(m.Pin(client.next_id(), str(tmp_path / "m")), m.Done)
    streamerd.stop()
    streamerd.replace_flag(f"--memory-limit={6 * BLOCK}")
    streamerd.start()
    assert len(streamerd.shards()) == 1
    assert not any(row["pinned"] for row in streamerd.shards().values())
    assert "event=not_pinned_any_more" in streamerd.log


def _sidecars(daemon: DaemonProcess) -> list[Any]:
    """The sidecars of a running daemon, read from a copy.

    Reading removes files that are not finished, such as one that the daemon is just writing.
    """
    from streamerd.shm.sidecars import SidecarFolder

    with tempfile.TemporaryDirectory() as directory:
        copy = SidecarFolder(f"{directory}/copy")
        finished = shutil.ignore_patterns("*.new")
        with contextlib.suppress(FileNotFoundError):  # a test may have removed the folder
            shutil.copytree(SidecarFolder(daemon.socket).path, copy.path, ignore=finished)
        return copy.read_all()


def test_adopted_shards_are_evicted_like_any_other(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path]
) -> None:
    loaded(streamerd, tmp_path / "m")
    streamerd.stop()
    streamerd.start()
    (big,) = write_model(tmp_path / "big", shards=1, blocks=40)
    assert load(streamerd, tmp_path / "big") == [big.read_bytes()]
    assert streamerd.allocated_bytes() <= 16 * BLOCK
    assert load(streamerd, tmp_path / "m") == bytes_of(model)


def test_a_slab_that_an_old_client_maps_is_never_punched(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path]
) -> None:
    """Evicting the slab unlinks it, and the old client's bytes stay."""
    with RawClient(streamerd.socket) as old:
        opened = old.open(str(tmp_path / "m"), hold=True)
        opened.await_grants(10)
        slabs = [opened.slab(number) for number in range(len(opened.shards))]
        streamerd.stop()
        streamerd.start()
        assert load(streamerd, tmp_path / "m") == bytes_of(model)
        write_model(tmp_path / "big", shards=1, blocks=40)
        load(streamerd, tmp_path / "big")
        assert streamerd.totals()["evicted_bytes"] > 0
        assert streamerd.status()["memory"]["lingering_bytes"] == 10 * BLOCK
        assert [os.pread(slab, 6 * BLOCK, 0) for slab in slabs] == bytes_of(model)
        old.abandon()
    eventually(lambda: not streamerd.status()["memory"]["lingering_bytes"])


def test_windows_over_a_partly_resident_checkpoint(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    (file,) = write_model(tmp_path / "big", shards=1, blocks=40)
    assert load(streamerd, tmp_path / "big") == [file.read_bytes()]
    streamerd.stop()
    kept = streamerd.allocated_bytes()
    assert kept
    streamerd.start()
    assert load(streamerd, tmp_path / "big") == [file.read_bytes()]
    assert streamerd.totals()["source_read_bytes"] < 40 * BLOCK - kept // 2
    assert streamerd.allocated_bytes() <= 16 * BLOCK


@pytest.mark.parametrize("seed", range(20))
def test_killed_anywhere_in_a_load(streamerd: DaemonProcess, tmp_path: Path, seed: int) -> None:
    """Whatever was recorded by then, the next daemon serves right bytes and keeps its limit."""
    chance = random.Random(seed)
    files = write_model(tmp_path / "m", shards=3, blocks=chance.choice([4, 5, 12]))
    with RawClient(streamerd.socket) as client:
        opened = client.open(str(tmp_path / "m"), hold=chance.random() < 0.5)
        until = chance.randrange(1, len(opened.blocks))
        while len(opened.read) + len(opened.granted) < until:
            client.listen()
            if not opened.held and len(opened.granted) > chance.randrange(8):
                opened.consume(set(opened.granted))
        if chance.random() < 0.5:
            eventually(lambda: written_blocks(streamerd))
        streamerd.kill()
        client.abandon()
    streamerd.start()
    assert load(streamerd, tmp_path / "m") == bytes_of(files)
    assert streamerd.allocated_bytes() <= 16 * BLOCK


def test_sidecars_hold_no_environment(streamerd: DaemonProcess, tmp_path: Path) -> None:
    write_model(tmp_path / "m", shards=2, blocks=5)
    with RawClient(streamerd.socket) as client:
        secret = {"AWS_SECRET_ACCESS_KEY": "do-not-write-this"}
        client.open(str(tmp_path / "m"), hold=True, environment=secret).await_grants(10)
    eventually(lambda: written_blocks(streamerd) == 10)
    for name in os.listdir(streamerd.sidecars):
        assert b"do-not-write-this" not in (streamerd.sidecars / name).read_bytes()


def test_evicted_shards_leave_no_sidecar(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path]
) -> None:
    loaded(streamerd, tmp_path / "m")
    with RawClient(streamerd.socket) as client:
        client.request(m.Evict(client.next_id()), m.Done)
    eventually(lambda: not os.listdir(streamerd.sidecars))


def test_a_folder_that_somebody_removed_is_made_again(
    streamerd: DaemonProcess, tmp_path: Path, model: list[Path]
) -> None:
    loaded(streamerd, tmp_path / "m")
    shutil.rmtree(streamerd.sidecars)
    write_model(tmp_path / "n", shards=1, blocks=2)
    load(streamerd, tmp_path / "n")
    eventually(lambda: written_blocks(streamerd) == 12)
    assert "event=sidecar_not_written" in streamerd.log
    streamerd.stop()
    streamerd.start()
    assert load(streamerd, tmp_path / "m") == bytes_of(model)
    assert streamerd.totals()["source_read_bytes"] == 0


def test_a_file_in_place_of_the_folder_is_told(daemon_maker: Daemons) -> None:
    daemon = daemon_maker.make()
    daemon.sidecars.write_text("")
    assert daemon.run_to_its_end() == 78
    assert str(daemon.sidecars) in daemon.log
    daemon.sidecars.unlink()
