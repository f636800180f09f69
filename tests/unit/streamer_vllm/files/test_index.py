"""The files and tensors that an index names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamer_client import CorruptCheckpoint
from streamer_vllm.files.index import MOST_BYTES, read_index

INDEX = "model.safetensors.index.json"
PARTS = [f"model-{place}.safetensors" for place in (1, 2, 10)]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    for name in (*PARTS, "consolidated.safetensors", "config.json"):
        (tmp_path / name).touch()
    return tmp_path


def write_index(prefix: Path, names: list[str]) -> None:
    weights = {f"layer.{place}": name for place, name in enumerate(names)}
    (prefix / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weights}))


def files(prefix: str) -> list[str]:
    index = read_index(prefix)
    assert index is not None
    return list(index.files)


def test_without_an_index_all_are_read(prefix: Path) -> None:
    assert read_index(str(prefix)) is None


def test_files_that_the_index_does_not_name_are_left_out(prefix: Path) -> None:
    write_index(prefix, [PARTS[2], PARTS[0], PARTS[1], PARTS[0]])
    assert files(f"{prefix}/") == PARTS


def test_a_file_that_is_missing_is_left_to_the_open(prefix: Path) -> None:
    write_index(prefix, [*PARTS, "model-11.safetensors"])
    assert files(str(prefix)) == [*PARTS, "model-11.safetensors"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "[]", '{"weight_map": {}}', '{"weight_map": ["a"]}', "\udcff", "[" * 100_000],
    ids=lambda text: repr(text[:24]),
)
def test_a_malformed_index_is_named(prefix: Path, text: str) -> None:
    (prefix / INDEX).write_text(text, errors="surrogateescape")
    with pytest.raises(CorruptCheckpoint, match=f"{prefix}/{INDEX}: it has no object `weight_map`"):
        read_index(str(prefix))


def test_names_lose_what_says_nothing(prefix: Path) -> None:
    write_index(prefix, ["./model-1.safetensors", "sub/./model-2.safetensors"])
    assert files(str(prefix)) == ["model-1.safetensors", "sub/model-2.safetensors"]
    index = read_index(str(prefix))
    assert index is not None
    assert index.owners["layer.0"] == "model-1.safetensors"


@pytest.mark.parametrize("name", ["/etc/x.safetensors", "../x.safetensors", "a/../../x", "."])
def test_no_name_leads_out_of_the_folder(prefix: Path, name: str) -> None:
    write_index(prefix, [name])
    with pytest.raises(CorruptCheckpoint, match="not below the index"):
        read_index(str(prefix))


def test_an_index_too_large_to_be_one_is_not_read(prefix: Path) -> None:
    with (prefix / INDEX).open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(CorruptCheckpoint, match=f"{INDEX}: it has {MOST_BYTES + 1} bytes"):
        read_index(str(prefix))
