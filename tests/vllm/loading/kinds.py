"""The kinds of model that the harness loads: how each is made, and vLLM's arguments for it.

Owns the small random checkpoints; `quantized.py` owns the quantised forms. Nothing is downloaded: a
model from the hub is a cache folder in the hub's own layout. Runs in the harness before its ranks.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from streamer_vllm.demo.architectures import Dimensions
from streamer_vllm.demo.model import build_model
from streamer_vllm.demo.tokenizer import write_tokenizer
from streamer_vllm.versions import NEWEST_TRIED, installed_version, parsed
from tests.vllm.loading.quantized import quantize_checkpoint

Make = Callable[[Path, int], None]
"""Makes a checkpoint in a directory from a seed."""

SIZE: Final = Dimensions(hidden=128, intermediate=256, layers=2, heads=4, kv_heads=2, experts=4)
HUB_ID: Final = "house/llama"
HUB_REVISION: Final = "1" * 40


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of model."""

    make: Make
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments for `EngineArgs`, beside those that every kind gets."""
    draft: bool = False
    """Whether the kind is loaded as a draft model, beside a dense target."""
    lora: bool = False
    """Whether the model's layers are wrapped for LoRA once it is loaded."""
    hub: bool = False
    """Whether the model is named by its id on the hub."""
    online: bool = False
    """Whether vLLM quantises the model while it loads it, so that it takes no shards."""
    located: dict[str, Any] = field(default_factory=dict)
    """Arguments for `EngineArgs` where the kind's own checkpoint is loaded, and not shards of it.
    """


def _demo(kind: Any) -> Make:
    def make(directory: Path, seed: int) -> None:
        build_model(str(directory), kind, SIZE, seed)

    return make


def _quantized(method: str) -> Make:
    def make(directory: Path, seed: int) -> None:
        build_model(str(directory), "llama", SIZE, seed)
        quantize_checkpoint(directory, method, seed)

    return make


REMOTE_CONFIGURATION: Final = """
from transformers import LlamaConfig


class HouseConfig(LlamaConfig):
    model_type = "house"
"""


def _remote_code(directory: Path, seed: int) -> None:
    """Configure a class whose code lies beside the weights."""
    build_model(str(directory), "llama", SIZE, seed)
    (directory / "configuration_house.py").write_text(REMOTE_CONFIGURATION)
    change_config(
        directory,
        model_type="house",
        auto_map={"AutoConfig": "configuration_house.HouseConfig"},
    )


def change_config(directory: Path, **changes: Any) -> None:
    """Set keys of a model's `config.json`."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _bert(directory: Path, seed: int) -> None:
    import transformers

    config = transformers.BertConfig(
        vocab_size=258,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=256,
    )
    _save(transformers.BertModel, config, directory, seed)


VISION: Final = {
    "model_type": "siglip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 128,
    "vision_use_head": False,
}
TEXT: Final = {
    "model_type": "gemma",
    "vocab_size": 1416,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 512,
}


def _paligemma(directory: Path, seed: int) -> None:
    """A model for images that vLLM imports without torchvision, which has no build for this torch.

    Its processor adds a token for images, and some 1,150 more, to the tokenizer's 258.
    """
    import transformers

    config = transformers.PaliGemmaConfig(
        vision_config=VISION,
        text_config=TEXT,
        image_token_index=258,
        projection_dim=128,
        hidden_size=128,
    )
    _save(transformers.PaliGemmaForConditionalGeneration, config, directory, seed)
    _rename(directory, "vision_tower.", "vision_tower.vision_model.")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    images: Any = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16  # patches: (32 / 8) squared
    processor: Any = transformers.PaliGemmaProcessor
    processor(images, tokenizer).save_pretrained(directory)


def _save(model: Any, config: Any, directory: Path, seed: int) -> None:
    """Let transformers make a model of random weights and save it in two files or more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        made = model(config).to(torch.bfloat16)
        made.save_pretrained(directory, max_shard_size="400KB")
    write_tokenizer(str(directory))


def _rename(directory: Path, prefix: str, published: str) -> None:
    """Give tensors the names of published checkpoints, which transformers shortens."""
    from safetensors.torch import load_file, save_file

    def name_of(name: str) -> str:
        return published + name.removeprefix(prefix) if name.startswith(prefix) else name

    for file in directory.glob("*.safetensors"):
        save_file({name_of(name): tensor for name, tensor in load_file(file).items()}, file)
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    owners = {name_of(name): file for name, file in index["weight_map"].items()}
    path.write_text(json.dumps(index | {"weight_map": owners}))


ONLINE: Final = {"quantization": "int8_per_channel_weight_only"}
"""Of experts alone; layers of other kinds stay as they are."""
ONLINE_SINCE: Final = (0, 25)


def online_is_lacking() -> str:
    """Why this vLLM does not quantise experts while it loads them; empty if it does."""
    if (parsed(installed_version()) or NEWEST_TRIED) < ONLINE_SINCE:
        return "vLLM before 0.25 has no backend on the CPU for experts that it quantises"
    if not torch.cpu._is_avx512_bf16_supported():
        return "vLLM quantises experts on processors with AVX-512 BF16 alone"
    return ""


KINDS: Final[dict[str, Kind]] = {
    "dense": Kind(_demo("llama")),
    "tied": Kind(_demo("tied")),
    "experts": Kind(_demo("qwen3-moe")),
    "gptq": Kind(_quantized("gptq")),
    "awq": Kind(_quantized("awq")),
    "int8": Kind(_quantized("int8")),
    "online": Kind(_demo("qwen3-moe"), ONLINE, online=True),
    "lora": Kind(_demo("llama"), {"enable_lora": True, "max_lora_rank": 8}, lora=True),
    "draft": Kind(_demo("llama"), draft=True),
    "embedding": Kind(_bert, {"runner": "pooling"}),
    "decoder-embedding": Kind(_demo("tied"), {"runner": "pooling", "convert": "embed"}),
    "multi-modal": Kind(_paligemma, {"limit_mm_per_prompt": {"image": 1}}),
    "remote-code": Kind(_remote_code, {"trust_remote_code": True}),
    "transformers": Kind(_demo("llama"), {"model_impl": "transformers"}),
    "hub": Kind(_demo("llama"), hub=True, located={"revision": HUB_REVISION}),
}


def make_hub_cache(model: Path, home: Path) -> None:
    """Lay a checkpoint out as the hub's cache does: links to blobs, by revision.

    `main` is another revision, which lacks its weights.
    """
    repository = home / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / HUB_REVISION, repository / "blobs"
    other = repository / "snapshots" / ("2" * 40)
    for directory in (snapshot, blobs, repository / "refs", other):
        directory.mkdir(parents=True)
    (repository / "refs" / "main").write_text("2" * 40)
    for file in model.iterdir():
        shutil.copyfile(file, blobs / file.name)
        (snapshot / file.name).symlink_to(blobs / file.name)
    (other / "config.json").write_text("{}")
