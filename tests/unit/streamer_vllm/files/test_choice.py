"""The files of a folder that are read: the index decides if it is the folder's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from streamer_client.contract.errors import ConfigError, SourceNotFound
from streamer_vllm.files.choice import chosen_files, weights_folder

if TYPE_CHECKING:
    from vllm.config.load import LoadConfig


def make(folder: Path, *names: str, index: dict[str, str] | None = None) -> str:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    if index is not None:
        text = json.dumps({"weight_map": index})
        (folder / "model.safetensors.index.json").write_text(text)
    return str(folder)


def test_without_an_index_all_are_read(tmp_path: Path) -> None:
    assert chosen_files(make(tmp_path, "a.safetensors", "b.safetensors")) is None


def test_a_consolidated_copy_is_not_read_twice(tmp_path: Path) -> None:
    folder = make(tmp_path, "consolidated.safetensors", "model.safetensors")
    chosen = chosen_files(folder)
    assert chosen is not None
    assert chosen.files == ["model.safetensors"]


def test_a_consolidated_file_alone_is_read(tmp_path: Path) -> None:
    assert chosen_files(make(tmp_path, "consolidated.safetensors")) is None


def test_the_index_names_files_and_owners(tmp_path: Path) -> None:
    index = {"x": "./m-10.safetensors", "y": "sub/m-2.safetensors"}
    folder = make(tmp_path, "m-10.safetensors", "sub/m-2.safetensors", "n.safetensors", index=index)
    chosen = chosen_files(folder)
    assert chosen is not None
    assert chosen.files == ("m-10.safetensors", "sub/m-2.safetensors")
    assert chosen.owners == {"x": "m-10.safetensors", "y": "sub/m-2.safetensors"}


def test_an_index_of_another_state_is_left_alone(tmp_path: Path) -> None:
    folder = make(tmp_path, "model.safetensors", index={"x": "m-1.safetensors"})
    assert chosen_files(folder) is None


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    index = {"x": "m-1.safetensors", "y": "m-2.safetensors"}
    folder = make(tmp_path, "m-1.safetensors", index=index)
    with pytest.raises(SourceNotFound, match=r"are missing: m-2\.safetensors"):
        chosen_files(folder)


def test_a_working_directory_that_was_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    unused = cast("LoadConfig", None)  # only names that are downloaded need it
    with pytest.raises(ConfigError, match="working directory was removed"):
        weights_folder(".", None, unused)
    assert weights_folder(str(tmp_path), None, unused) == str(tmp_path)
