"""Whatever a key is, its file lies under the directory, and appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamer_client.contract.errors import SourceError
from streamer_client.runai.pulling import PartialFile, destination


def test_names_keep_their_folders(tmp_path: Path) -> None:
    assert destination(str(tmp_path), "a/b.json", "s3://m/a/b.json") == str(tmp_path / "a/b.json")
    assert destination(str(tmp_path), "..a/...", "s3://m/..a/...") == str(tmp_path / "..a/...")


@pytest.mark.parametrize("relative", ["/a/b", "a//b", "//a///b"])
def test_slashes_in_a_row_are_one(tmp_path: Path, relative: str) -> None:
    assert destination(str(tmp_path), relative, "s3://m/k") == str(tmp_path / "a/b")


@pytest.mark.parametrize(
    "relative",
    ["../x", "a/../../x", "a/..", "..", ".", "", "/", "a/./b", "/../x", "a\0b"],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(SourceError, match="s3://m/k: its name would be written outside of"):
        destination(str(tmp_path), relative, "s3://m/k")


def test_a_link_in_the_way_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "dst", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "a").symlink_to(outside)
    with pytest.raises(SourceError, match="outside of"):
        destination(str(inside), "a/x", "s3://m/a/x")


@pytest.fixture(params=["unnamed", "named"])
def kind_of_file(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system that supports files without a name, and one that refuses them."""
    if request.param == "named":
        # With O_DIRECTORY alone, opening a directory for writing fails with EISDIR.
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    return str(request.param)


@pytest.mark.usefixtures("kind_of_file")
def test_it_appears_whole_with_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "name"
    with PartialFile(str(path)) as file:
        file.write(memoryview(b"cd"), 2)
        file.write(memoryview(b"ab"), 0)
        assert not path.exists()
    assert path.read_bytes() == b"abcd"
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.usefixtures("kind_of_file")
def test_readers_of_the_earlier_file_keep_it(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    with path.open("rb") as reading:
        with PartialFile(str(path)) as file:
            file.write(memoryview(b"new"), 0)
        assert reading.read() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.usefixtures("kind_of_file")
def test_after_an_error_all_is_as_before(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="Invalid argument"), PartialFile(str(path)) as file:
        file.write(memoryview(b"ne"), -1)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["name"]


@pytest.mark.usefixtures("kind_of_file")
def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path: Path) -> None:
    for name in ("n" * 255, "\U0001f600" * 63):
        with PartialFile(str(tmp_path / name)) as file:
            file.write(memoryview(b"x"), 0)
        assert (tmp_path / name).read_bytes() == b"x"
    assert len(os.listdir(tmp_path)) == 2


def test_a_process_that_is_killed_leaves_nothing(tmp_path: Path, kind_of_file: str) -> None:
    with PartialFile(str(tmp_path / "name")) as file:
        file.write(memoryview(b"x"), 0)
        assert len(os.listdir(tmp_path)) == (kind_of_file == "named")


@pytest.mark.usefixtures("kind_of_file")
def test_a_folder_in_the_place_of_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(IsADirectoryError), PartialFile(str(tmp_path / "name")) as file:
        file.write(memoryview(b"x"), 0)
    assert os.listdir(tmp_path) == ["name"]


@pytest.mark.usefixtures("kind_of_file")
def test_a_link_in_the_place_of_the_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("x")
    (tmp_path / "name").symlink_to(tmp_path / "victim")
    with PartialFile(str(tmp_path / "name")) as file:
        file.write(memoryview(b"y"), 0)
    assert (tmp_path / "victim").read_text() == "x"
    assert not (tmp_path / "name").is_symlink()
