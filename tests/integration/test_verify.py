"""`streamerctl verify` compares resident blocks with their checksums, and with their source."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer_client.contract import messages as m
from streamerd.cli.main import main
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.leaks import SHM_DIR
from tests.support.raw_client import RawClient

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", shards=2, blocks=4)
    return tmp_path / "model"


@pytest.fixture
def run(streamerd: DaemonProcess, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str]:
        code = main([*arguments, "--socket", streamerd.socket])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def _overwrite(daemon: DaemonProcess, uri: str, at: int) -> None:
    """Change a slab's bytes, as faulty memory would."""
    slab = daemon.shards()[uri]["slab"]
    fd = os.open(SHM_DIR / slab.lstrip("/"), os.O_RDWR)
    try:
        byte = os.pread(fd, 1, at)
        os.pwrite(fd, bytes([byte[0] ^ 1]), at)
    finally:
        os.close(fd)


def test_what_is_right_is_told_with_its_size(run: Run, model: Path) -> None:
    assert run("prefetch", str(model))[0] == 0
    code, out = run("verify", str(model))
    assert code == 0
    assert f"{model}: 512 KiB against checksums: right" in out
    code, out = run("verify", "--source")
    assert code == 0
    assert "against checksums and source: right" in out


def test_a_flipped_bit_in_memory_is_found_and_placed(
    run: Run, streamerd: DaemonProcess, model: Path
) -> None:
    run("prefetch", str(model))
    uri = str(model / "model-1.safetensors")
    _overwrite(streamerd, uri, 2 * BLOCK + 77)
    code, out = run("verify")
    assert code == 1
    assert "1 WRONG" in out
    assert (
        f"{uri}: block 2, bytes {2 * BLOCK}-{3 * BLOCK}: in memory it is not what was read" in out
    )
    assert "RAM" in out


def test_a_source_changed_in_place_is_found_only_with_source(
    run: Run, streamerd: DaemonProcess, model: Path
) -> None:
    run("prefetch", str(model))
    path = model / "model-0.safetensors"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[BLOCK] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run("verify", str(model))[0] == 0
    code, out = run("verify", str(model), "--source")
    assert code == 1
    assert "block 1" in out
    assert "other bytes now under the same identity" in out


def test_a_source_that_cannot_be_compared_is_told_once(run: Run, model: Path) -> None:
    run("prefetch", str(model))
    (model / "model-0.safetensors").unlink()
    code, out = run("verify", str(model), "--source")
    assert code == 1
    assert out.count("could not be compared with its source") == 1


def test_partly_resident_and_leased_blocks_are_verified_while_the_load_goes_on(
    run: Run, streamerd: DaemonProcess, tmp_path: Path
) -> None:
    write_model(tmp_path / "large", shards=1, blocks=40)
    with RawClient(streamerd.socket) as client:
        load = client.open(str(tmp_path / "large"))
        load.await_grants(3)
        code, out = run("verify")
        assert (code, "right" in out) == (0, True)
        expected = (tmp_path / "large" / "large-0.safetensors").read_bytes()
        assert load.read_all() == [expected]
        code, out = run("verify", "--source")
        assert (code, "right" in out) == (0, True)


def test_blocks_that_are_given_up_meanwhile_are_no_findings(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    write_model(tmp_path / "large", shards=1, blocks=64)
    with RawClient(streamerd.socket) as client, RawClient(streamerd.socket) as asker:
        load = client.open(str(tmp_path / "large"))
        findings: list[m.Finding] = []
        source = str(tmp_path / "large")
        transfer = asker.hand_over_source(source)

        def verify() -> None:
            asker.send(m.Verify(asker.next_id(), source, transfer, against_source=True))
            findings.extend(asker.expect_also(m.Verified).findings)

        load.await_grants(1)
        load.read_all(verify)
    assert findings == []


def test_nothing_in_memory(run: Run, tmp_path: Path) -> None:
    assert run("verify") == (0, "nothing in memory to verify\n")
    code, out = run("verify", str(tmp_path))
    assert code == 1
    assert "is not in memory" in out


def test_who_leaves_ends_its_verification(streamerd: DaemonProcess, model: Path) -> None:
    with RawClient(streamerd.socket) as client:
        client.open(str(model), hold=True).await_grants(8)
        with RawClient(streamerd.socket) as asker:
            transfer = asker.hand_over_source(str(model))
            asker.send(m.Verify(asker.next_id(), str(model), transfer, against_source=True))
        assert len(client.open(str(model), hold=True).granted) == 8
