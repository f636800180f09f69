"""Pulling a source's files into a directory.

A local source stands for all kinds, since storage has one contract.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer_client import ConfigError, CorruptCheckpoint, SourceError, SourceNotFound
from streamer_client.runai import list_safetensors, pull_files
from streamer_client.runai.listing import list_files
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local import LocalStorage
from streamer_client.storage.local_reader import LocalReader
from tests.support.unprivileged import as_nobody

CONTENT = {
    "config.json": b"{}",
    "empty.json": b"",
    "tokenizer.model": bytes(range(256)) * 40_000,  # takes more than one read
    "model.safetensors": b"weights",
    "model-10.safetensors": b"ten",
    "model-2.safetensors": b"two",
    "sub/deep/extra.json": b"[]",
    ".hidden/keep": b"h",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    for name, content in CONTENT.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def brought(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_every_file_is_pulled(source: Path, tmp_path: Path) -> None:
    pull_files(f"{source}/", str(tmp_path / "dst"))
    assert brought(tmp_path / "dst") == CONTENT


def test_what_patterns_take(source: Path, tmp_path: Path) -> None:
    pull_files(str(source), str(tmp_path / "a"), allow_pattern=["*.model", "*.py", "*.json"])
    assert set(brought(tmp_path / "a")) == {
        "config.json",
        "empty.json",
        "tokenizer.model",
        "sub/deep/extra.json",
    }
    pull_files(str(source), str(tmp_path / "b"), ignore_pattern=["*.safetensors", "*.json"])
    assert set(brought(tmp_path / "b")) == {"tokenizer.model", ".hidden/keep"}
    pull_files(str(source), str(tmp_path / "c"), ["*.json"], ["config*"])
    assert set(brought(tmp_path / "c")) == {"empty.json", "sub/deep/extra.json"}


def test_nothing_taken_is_no_error(source: Path, tmp_path: Path) -> None:
    pull_files(str(source), str(tmp_path / "dst"), allow_pattern=["*.py"])
    assert not (tmp_path / "dst").exists()


def test_a_second_pull_replaces_whole_files(source: Path, tmp_path: Path) -> None:
    pull_files(str(source), str(tmp_path / "dst"))
    (source / "config.json").write_bytes(b'{"new": 1}')
    with (tmp_path / "dst" / "config.json").open("rb") as reading:
        pull_files(str(source), str(tmp_path / "dst"))
        assert reading.read() == b"{}"
    assert brought(tmp_path / "dst") == CONTENT | {"config.json": b'{"new": 1}'}


def test_one_file_is_a_source_too(source: Path, tmp_path: Path) -> None:
    pull_files(str(source / "config.json"), str(tmp_path / "dst"))
    assert brought(tmp_path / "dst") == {"config.json": b"{}"}


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound) as caught:
        pull_files(str(tmp_path / "none"), str(tmp_path / "dst"))
    assert isinstance(caught.value, ValueError)


@pytest.fixture
def for_everyone() -> Iterator[Path]:
    """A directory that other users may enter, which they may not do with pytest's own."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_a_directory_that_may_not_be_written(for_everyone: Path) -> None:
    (for_everyone / "config.json").touch()
    told = as_nobody(lambda: pull_files(str(for_everyone), str(for_everyone / "dst")))
    assert told.startswith("SourceForbidden: ")
    assert str(for_everyone / "dst") in told


def test_files_are_read_side_by_side(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(3, timeout=30)
    plain = LocalStorage.open

    def opened(self: LocalStorage, shard: StoredShard) -> LocalReader:
        together.wait()
        return plain(self, shard)

    monkeypatch.setattr(LocalStorage, "open", opened)
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", "3")
    pull_files(str(source), str(tmp_path / "dst"), allow_pattern=["*.safetensors"])
    assert len(brought(tmp_path / "dst")) == 3


def test_an_error_leaves_only_whole_files(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = LocalReader.readinto

    def readinto(self: LocalReader, buffer: memoryview, start: int) -> int:
        if start:
            raise CorruptCheckpoint("the second read of the large file fails")
        return plain(self, buffer, start)

    monkeypatch.setattr(LocalReader, "readinto", readinto)
    with pytest.raises(CorruptCheckpoint):
        pull_files(str(source), str(tmp_path / "dst"))
    found = brought(tmp_path / "dst")
    assert "tokenizer.model" not in found
    assert found.items() <= CONTENT.items()


def test_a_name_that_leads_elsewhere_stops_everything(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file system allows such names, but object stores do."""
    listed = LocalStorage.list_all

    def with_a_bad_key(
        self: LocalStorage, name: str, take: Callable[[str], bool] | None = None
    ) -> tuple[StoredShard, ...]:
        return (*listed(self, name, take), StoredShard(f"{source}/../../evil", 1, "x"))

    monkeypatch.setattr(LocalStorage, "list_all", with_a_bad_key)
    with pytest.raises(SourceError, match="outside of"):
        pull_files(str(source), str(tmp_path / "dst"))
    assert not (tmp_path / "dst").exists()


def test_a_working_directory_that_was_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for place in [("model", str(tmp_path / "dst")), (str(source), "dst")]:
        with pytest.raises(ConfigError, match="working directory was removed"):
            pull_files(*place)
    assert not (tmp_path / "dst").exists()
    assert list_safetensors("model") == []
    with pytest.raises(SourceNotFound):
        list_files("model", recursive=True)
    # The folder above the removed one is still found, as listing it needs no absolute path.
    above = [(f"../source/{name}", len(content)) for name, content in CONTENT.items()]
    assert sorted(list_files("../source", recursive=True)) == sorted(above)


@pytest.mark.parametrize("end", ["", "/", "//", "/.", "/./"])
def test_listed_names_begin_with_the_directory_as_it_is_written(source: Path, end: str) -> None:
    (found,) = list_files(f"{source}{end}", recursive=False, allow=["tokenizer.model"])
    assert found[0] == f"{source}{end.removesuffix('/')}/tokenizer.model"
    (deep,) = list_files(f"{source}{end}", recursive=True, allow=["sub/deep/extra.json"])
    assert deep[0] == f"{source}{end.removesuffix('/')}/sub/deep/extra.json"


def test_listing_is_in_natural_order_and_not_recursive(source: Path) -> None:
    (source / "sub" / "other.safetensors").touch()
    names = ["model-2.safetensors", "model-10.safetensors", "model.safetensors"]
    assert list_safetensors(str(source)) == [str(source / name) for name in names]
    assert list_safetensors(f"{source}/") == [str(source / name) for name in names]


def test_listing_nothing_is_told(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert list_safetensors(str(source / "sub")) == []
    assert list_safetensors(str(source / "none")) == []
    assert f"source={source}/none" in caplog.text


def test_listing_what_may_not_be_read(for_everyone: Path) -> None:
    (for_everyone / "private").mkdir(mode=0o700)
    told = as_nobody(lambda: list_safetensors(str(for_everyone / "private")))
    assert told.startswith("SourceForbidden: ")
