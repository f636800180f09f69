"""Which files an index leaves; a directory stands for a prefix, for storage treats both alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamer_client import CorruptCheckpoint
from streamer_vllm.object_index import needed_objects

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


def test_without_an_index_all_are_read(prefix: Path) -> None:
    assert needed_objects(str(prefix), INDEX) is None


def test_files_that_the_index_does_not_name_are_left_out(prefix: Path) -> None:
    write_index(prefix, [PARTS[2], PARTS[0], PARTS[1], PARTS[0]])
    assert needed_objects(f"{prefix}/", INDEX) == PARTS


def test_a_file_that_is_missing_is_left_to_the_open(prefix: Path) -> None:
    write_index(prefix, [*PARTS, "model-11.safetensors"])
    assert needed_objects(str(prefix), INDEX) == [*PARTS, "model-11.safetensors"]


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[]", '{"weight_map": {}}', '{"weight_map": ["a"]}', "\udcff"]
)
def test_a_malformed_index_is_named(prefix: Path, text: str) -> None:
    (prefix / INDEX).write_text(text, errors="surrogateescape")
    with pytest.raises(CorruptCheckpoint, match=f"{prefix}/{INDEX}: it has no object `weight_map`"):
        needed_objects(str(prefix), INDEX)
