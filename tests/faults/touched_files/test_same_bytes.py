"""Files are touched but keep their bytes: only their checksums are taken again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.touched_files import BLOCKS, read_and_proven, resident_of
from tests.support.visitor import Visitor, digest_of, digests_of
from tests.support.waiting import eventually


def _chmod(file: Path) -> Path:
    file.chmod(0o640)
    return file


def _remove_a_hard_link(file: Path) -> Path:
    other = file.with_suffix(".other")
    other.hardlink_to(file)
    other.unlink()
    return file


def _rename(file: Path) -> Path:
    return file.rename(file.with_name(f"renamed-{file.name}"))


def _move_its_folder(file: Path) -> Path:
    return file.parent.rename(file.parent.with_name("moved")) / file.name


def _set_an_attribute(file: Path) -> Path:
    try:
        os.setxattr(file, "user.seen", b"1")
    except OSError:
        pytest.skip("needs extended attributes")
    return file


TOUCHES: list[Callable[[Path], Path]] = [
    _chmod,
    _remove_a_hard_link,
    _rename,
    _move_its_folder,
    _set_an_attribute,
]


touches = pytest.mark.parametrize("touch", TOUCHES)


@touches
def test_what_is_done_to_a_file_between_two_loads_costs_only_checksums(
    daemon: DaemonProcess, client: Visitor, model: Path, touch: Callable[[Path], Path]
) -> None:
    digest = digest_of(model)
    client.load(daemon.socket, model)
    read, proven = read_and_proven(daemon)
    model = touch(model)
    found = client.load(daemon.socket, model)
    assert found["digests"] == {model.name: digest}
    assert found["resident_bytes"] == BLOCKS * BLOCK
    read_after, proven_after = read_and_proven(daemon)
    assert read_after == read
    assert proven_after - proven <= BLOCKS * BLOCK
    client.load(daemon.socket, model)
    assert read_and_proven(daemon) == (read_after, proven_after)


@touches
def test_what_is_done_to_a_file_while_it_is_held_costs_only_checksums(
    daemon: DaemonProcess, client: Visitor, model: Path, touch: Callable[[Path], Path]
) -> None:
    digest, name = digest_of(model), model.name
    client.ask("connect", socket=daemon.socket)
    client.ask("open", source=str(model))
    client.ask("read", most=2)
    eventually(lambda: resident_of(daemon, model) == [BLOCKS * BLOCK])
    read, _ = read_and_proven(daemon)
    touched = touch(model)
    client.ask("open", source=str(touched), load="b")
    assert client.ask("read", load="b")["digests"] == {touched.name: digest}
    assert client.ask("read")["digests"] == {name: digest}
    assert read_and_proven(daemon)[0] == read


@touches
def test_what_is_done_to_a_file_while_it_is_read_loses_nothing(
    daemon: DaemonProcess, client: Visitor, model: Path, touch: Callable[[Path], Path]
) -> None:
    """The window is the smallest, so most of the file is read after the touch.

    A read that was under way at that moment may have had bytes of either file, so it alone is made
    again.
    """
    digest, name = digest_of(model), model.name
    read, _ = read_and_proven(daemon)
    client.ask("connect", socket=daemon.socket)
    client.ask("open", source=str(model), hold=False, memory_limit=0)
    client.ask("read", most=2)
    touch(model)
    found = client.ask("read")
    assert (found["mode"], found["digests"]) == ("daemon", {name: digest})
    in_flight = 4
    assert read_and_proven(daemon)[0] - read <= (BLOCKS + in_flight) * BLOCK


def test_a_file_that_was_removed_while_it_is_read_is_read_to_its_end(
    daemon: DaemonProcess, client: Visitor, model: Path
) -> None:
    digests = digests_of([model])
    client.ask("connect", socket=daemon.socket)
    client.ask("open", source=str(model), hold=False, memory_limit=0)
    client.ask("read", most=2)
    model.unlink()
    assert client.ask("read")["digests"] == digests
