"""The bytes of files change: old and new bytes are never mixed, and never served as each other."""

from __future__ import annotations

import mmap
import os
import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import write_blocks
from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.touched_files import BLOCKS, flip, resident_of
from tests.support.visitor import Refusal, Visitor, digests_of
from tests.support.waiting import eventually


@pytest.mark.parametrize("mode", ["required", "auto"])
@pytest.mark.parametrize("at", [0, 3 * BLOCK + 5001, BLOCKS * BLOCK - 1])
def test_one_byte_changed_in_place_is_seen(
    daemon: DaemonProcess, client: Visitor, model: Path, at: int, mode: str
) -> None:
    """The file keeps its size and mtime, and the byte may lie in a page that is not sampled."""
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
    """The byte changes without any write call."""
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
    """The second change is seen also if it restores the first bytes."""
    for _ in range(3):
        assert client.load(daemon.socket, model)["digests"] == digests_of([model])
        flip(model, 4 * BLOCK)


def test_a_file_changed_in_place_ends_the_loads_of_what_it_was(
    daemon: DaemonProcess, client: Visitor, model: Path
) -> None:
    """New clients get the new bytes. Clients of the old bytes get an error, and never a mixture."""
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
    """The byte lies in a part that was read already, or in one that was not."""
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
