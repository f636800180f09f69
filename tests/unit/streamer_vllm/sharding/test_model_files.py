"""The files that are copied beside new shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamer_vllm.sharding.model_files import (
    copy_model_files,
    is_weights,
    record_quantized_modules,
    untie_word_embeddings,
)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "x.GGUF", "a.pt"],
)
def test_weights_are_left(name: str) -> None:
    assert is_weights(name)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "chat_template.jinja", "m.py"])
def test_the_rest_is_taken(name: str) -> None:
    assert not is_weights(name)


def test_links_are_followed_and_folders_left(tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    (model / "original").mkdir(parents=True)
    out.mkdir()
    (tmp_path / "blob").write_text("{}")
    (model / "config.json").symlink_to(tmp_path / "blob")
    (model / "model.safetensors").write_bytes(b"")
    copy_model_files(str(model), str(out), None)
    assert [file.name for file in out.iterdir()] == ["config.json"]
    assert not (out / "config.json").is_symlink()


def test_untying_reaches_the_text_model(tmp_path: Path) -> None:
    config = {"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": True, "x": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    untie_word_embeddings(str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "tie_word_embeddings": False,
        "text_config": {"tie_word_embeddings": False, "x": 1},
    }


class Quantization:
    """A configuration like vLLM's after it has looked at the names."""

    def __init__(self) -> None:
        self.modules_in_block_to_quantize = ["layers.1.q", "layers.0.q"]


def test_modules_that_vllm_took_from_names_are_written_down(tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4}))
    record_quantized_modules(str(tmp_path), Quantization())
    derived = {"modules_in_block_to_quantize": ["layers.0.q", "layers.1.q"]}
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "quantization_config": {"quant_method": "gptq", **derived}
    }
    assert json.loads((tmp_path / "quantize_config.json").read_text()) == {"bits": 4, **derived}


def test_modules_that_the_checkpoint_names_stay(tmp_path: Path) -> None:
    config = {"quantization_config": {"modules_in_block_to_quantize": [["q"], ["k"]]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    record_quantized_modules(str(tmp_path), Quantization())
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_an_unquantised_model_has_nothing_to_write_down(tmp_path: Path) -> None:
    record_quantized_modules(str(tmp_path), None)
    assert not list(tmp_path.iterdir())
