"""Checkpoints of more files than a process may have open by default, and ranks beside each other.

Promise shown: 520 shards load within 1,024 descriptors of the daemon and of the client, whether
that is the soft or the hard limit. Where descriptors do not suffice, the error names the limit, and
`auto` reads by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import random_tensor, write_shard
from tests.support.daemon import BLOCK, DaemonProcess, Daemons, daemons
from tests.support.visitor import Visitor, digests_of
from tests.support.waiting import eventually
from tests.support.worlds import leased_bytes, open_files_of, status_of, totals_of, with_limit

SHARDS = 520
RANKS = 8
MEMORY_BYTES = 2 * SHARDS * BLOCK
LIMIT = 1024


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(SHARDS):
        tensor = random_tensor("U8", (5000,), number)
        write_shard(folder / f"{number:03d}.safetensors", {f"t{number}": tensor})
    return folder


@pytest.fixture(scope="module")
def digests(model: Path) -> dict[str, str]:
    return digests_of(sorted(model.iterdir()))


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """A daemon whose soft limit is 1,024, as is usual."""
    with daemons() as made:
        yield made.start(f"--memory-limit={MEMORY_BYTES}", before=with_limit(LIMIT, 16 * LIMIT))


@pytest.fixture
def small_daemon(daemon_maker: Daemons) -> DaemonProcess:
    """A daemon that may not raise its limit: 520 slabs and 520 files are more than it may have
    open.
    """
    return daemon_maker.start(f"--memory-limit={MEMORY_BYTES}", before=with_limit(LIMIT, LIMIT))


@pytest.mark.parametrize("hold", [True, False])
def test_520_shards_within_a_soft_limit_of_1024(
    daemon: DaemonProcess, model: Path, digests: dict[str, str], hold: bool
) -> None:
    with Visitor(with_limit(LIMIT, 16 * LIMIT)) as client:
        found = client.load(daemon.socket, model, hold=hold)
    assert (found["mode"], found["digests"]) == ("daemon", digests)
    eventually(lambda: not [at for at in open_files_of(daemon.pid) if at.startswith(str(model))])


def test_auto_loads_520_shards_within_a_hard_limit_of_1024(
    daemon: DaemonProcess, model: Path, digests: dict[str, str]
) -> None:
    """Files and slabs together are more than the limit, so the client reads the files by itself."""
    with Visitor(with_limit(LIMIT, LIMIT)) as client:
        found = client.load(daemon.socket, model, mode="auto")
    assert found["digests"] == digests
    assert leased_bytes(daemon.socket) == 0


def test_required_names_a_hard_limit_that_does_not_suffice(
    daemon: DaemonProcess, model: Path, tmp_path: Path
) -> None:
    with Visitor(with_limit(LIMIT, LIMIT)) as client:
        client.ask("connect", socket=daemon.socket)
        refused = client.refused("open", source=str(model))
    assert refused.kind not in ("OSError", "AssertionError")
    assert "ulimit -n" in refused.text
    eventually(lambda: leased_bytes(daemon.socket) == 0)


def test_a_daemon_whose_hard_limit_does_not_suffice_says_so_and_lives(
    small_daemon: DaemonProcess, model: Path, digests: dict[str, str]
) -> None:
    with Visitor() as client:
        client.ask("connect", socket=small_daemon.socket)
        refused = client.refused("open", source=str(model))
        assert refused.kind == "RequestRefused"
        assert "LimitNOFILE" in refused.text
        found = client.load(small_daemon.socket, model, mode="auto")
        assert found["digests"] == digests
        few = model / "007.safetensors"
        assert client.load(small_daemon.socket, few)["mode"] == "daemon"


def test_where_descriptors_do_not_suffice_the_limit_is_named_and_auto_goes_on(
    daemon: DaemonProcess, model: Path
) -> None:
    """A limit of 300 cannot hold 520 files, however they are read."""
    with Visitor(with_limit(300, 300)) as client:
        client.ask("connect", socket=daemon.socket)
        refused = client.refused("open", source=str(model))
    assert refused.kind not in ("OSError", "AssertionError")
    assert "ulimit -n" in refused.text
    assert leased_bytes(daemon.socket) == 0


def test_eight_ranks_of_520_shards_at_once(
    daemon: DaemonProcess, model: Path, digests: dict[str, str]
) -> None:
    """All ranks run as one user, whose descriptors on their way the kernel counts together."""
    before = totals_of(daemon.socket)["source_read_bytes"]
    resident = status_of(daemon.socket)["memory"]["used_bytes"] > 0
    with contextlib.ExitStack() as ranks:
        clients = [
            ranks.enter_context(Visitor(with_limit(LIMIT, 16 * LIMIT))) for _ in range(RANKS)
        ]
        for client in clients:
            client.ask("connect", socket=daemon.socket)
        for client in clients:
            client.begin("open", source=str(model))
        for client in clients:
            client.answer()
        for client in clients:
            client.begin("read")
        for client in clients:
            found = client.answer()
            assert (found["mode"], found["digests"]) == ("daemon", digests)
    size_bytes = sum(file.stat().st_size for file in model.iterdir())
    read_bytes = totals_of(daemon.socket)["source_read_bytes"] - before
    assert read_bytes == (0 if resident else size_bytes)
    eventually(lambda: leased_bytes(daemon.socket) == 0)


@pytest.mark.timeout(40)
def test_a_daemon_that_has_no_descriptor_left_for_more_slabs_says_so_and_lives(
    daemon_maker: Daemons, tmp_path: Path
) -> None:
    """Each shard in memory takes descriptors, so one small checkpoint after another exhausts a low
    limit.
    """
    daemon = daemon_maker.start(f"--memory-limit={MEMORY_BYTES}", before=with_limit(400, 400))
    files = [_write_few(tmp_path / str(number), number) for number in range(14)]
    with Visitor() as client:
        for few in files:
            folder = few[0].parent
            assert client.load(daemon.socket, folder, mode="auto")["digests"] == digests_of(few)
            client.ask("leave")
        assert status_of(daemon.socket)["pid"] == daemon.pid
        client.ask("connect", socket=daemon.socket)
        client.ask("evict")
        assert client.load(daemon.socket, files[0][0].parent)["mode"] == "daemon"


def _write_few(folder: Path, seed: int) -> list[Path]:
    folder.mkdir()
    return [
        write_shard(
            folder / f"{number:02d}.safetensors",
            {f"t{number}": random_tensor("U8", (5000,), 1000 * seed + number)},
        )
        for number in range(30)
    ]
