from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamer_client.runai.partial_file import PartialFile


def test_it_appears_whole_with_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "name"
    with PartialFile(str(path)) as file:
        file.write(memoryview(b"cd"), 2)
        file.write(memoryview(b"ab"), 0)
        assert not path.exists()
    assert path.read_bytes() == b"abcd"
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_readers_of_the_earlier_file_keep_it(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    with path.open("rb") as reading:
        with PartialFile(str(path)) as file:
            file.write(memoryview(b"new"), 0)
        assert reading.read() == b"old"
    assert path.read_bytes() == b"new"


def test_after_an_error_all_is_as_before(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="Invalid argument"), PartialFile(str(path)) as file:
        file.write(memoryview(b"ne"), -1)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["name"]


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    with PartialFile(str(path)) as file:
        file.write(memoryview(b"x"), 0)
    assert path.read_bytes() == b"x"
