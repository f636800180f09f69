"""However many processes open the same files, each byte is read from storage once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file

from streamer_client.contract.layout import PAGE_BYTES, SAMPLES
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.loader import LoaderServer, digest, start_together
from tests.support.raw_client import RawClient


def read_chars(daemon: DaemonProcess) -> int:
    """Bytes that the workers asked the kernel for in read calls, whatever cache they came from."""
    total = 0
    for pid in daemon.status()["workers"]:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        total += int(dict(line.split(": ") for line in lines)["rchar"])
    return total


def digest_of(files: list[Path]) -> str:
    return digest(
        {
            name: tensor.numpy().tobytes()
            for file in files
            for name, tensor in load_file(file).items()
        }
    )


CHANNEL_BYTES = 20_000
"""Jobs reach the workers over their socket pair by read calls too; this many bytes allow for them.
"""
COMPARED_BYTES = 2 * SAMPLES * PAGE_BYTES
"""Bytes of slab and file that are read to compare pages of each file that a load brings."""


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_at_once_and_one_again(
    daemon_maker: Daemons, loaders: LoaderServer, tmp_path: Path, processes: int
) -> None:
    daemon = daemon_maker.start(f"--memory-limit={80 * BLOCK}", "--workers=2")
    files = write_model(tmp_path / "m", shards=4, blocks=16)
    size_bytes = sum(file.stat().st_size for file in files)
    expected = digest_of(files)
    before = read_chars(daemon)
    with contextlib.ExitStack() as stack:
        ranks = [
            stack.enter_context(loaders.start(daemon.socket, str(tmp_path / "m")))
            for _ in range(processes)
        ]
        start_together(ranks)
        for rank in ranks:
            result = rank.result()
            assert (result["digest"], result["mode"]) == (expected, "daemon")
            assert result["total_bytes"] == size_bytes
    with loaders.start(daemon.socket, str(tmp_path / "m")) as again:
        start_together([again])
        result = again.result()
        assert (result["digest"], result["resident_bytes"]) == (expected, size_bytes)
    totals = daemon.totals()
    assert totals["source_read_bytes"] == size_bytes
    assert totals["source_requests"] == totals["block_misses"] == 64
    assert totals["served_bytes"] == (processes + 1) * size_bytes
    compared_bytes = (processes + 1) * len(files) * COMPARED_BYTES
    most_bytes = size_bytes + compared_bytes + CHANNEL_BYTES
    assert size_bytes <= read_chars(daemon) - before < most_bytes


def test_processes_that_do_not_hold_read_once_while_it_fits(
    daemon_maker: Daemons, loaders: LoaderServer, tmp_path: Path
) -> None:
    daemon = daemon_maker.start(f"--memory-limit={80 * BLOCK}")
    files = write_model(tmp_path / "m", shards=2, blocks=16)
    with (
        loaders.start(daemon.socket, str(tmp_path / "m"), hold=False) as one,
        loaders.start(daemon.socket, str(tmp_path / "m"), hold=False) as two,
    ):
        start_together([one, two])
        assert one.result()["digest"] == two.result()["digest"] == digest_of(files)
    assert daemon.totals()["source_read_bytes"] == 32 * BLOCK


def test_overlapping_choices_of_files_share_their_shards(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    files = write_model(tmp_path / "m", shards=3, blocks=4)
    with RawClient(streamerd.socket) as one, RawClient(streamerd.socket) as two:
        first = one.open(str(tmp_path / "m"), pattern="m-[01].safetensors", hold=True)
        second = two.open(str(tmp_path / "m"), files=(str(files[1]), "m-2.safetensors"), hold=True)
        first.await_grants(8)
        second.await_grants(8)
        assert os.path.samestat(os.fstat(first.slab(1)), os.fstat(second.slab(0)))
        assert streamerd.totals()["source_read_bytes"] == 12 * BLOCK
        assert [shard.uri for shard in second.shards] == [str(files[1]), str(files[2])]


def test_a_changed_file_is_read_again_and_never_mixed(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    (file,) = write_model(tmp_path / "m", shards=1, blocks=4)
    with RawClient(streamerd.socket) as client:
        old = client.open(str(tmp_path / "m"), hold=True)
        old.await_grants(4)
        before = file.read_bytes()
        write_model(tmp_path / "new", shards=1, blocks=4, seed=7)
        (tmp_path / "new" / "new-0.safetensors").rename(file)
        new = client.open(str(tmp_path / "m"), hold=True)
        new.await_grants(4)
        blocks = range(4)
        assert b"".join(new.bytes_of(0, block) for block in blocks) == file.read_bytes()
        assert b"".join(old.bytes_of(0, block) for block in blocks) == before
        old.close()
        new.close()
    assert list(streamerd.shards()) == [str(file)]
    assert streamerd.shards()[str(file)]["resident_bytes"] == 4 * BLOCK
