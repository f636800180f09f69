"""Writes a small random model that behaves like a real checkpoint.

`python -m streamer_vllm.demo.model DIR --kind llama --size tiny` makes `config.json`, a byte-level
tokenizer and several safetensors files with their index. The numbers are seeded, so the same
command writes the same bytes. Runs in its own process, or in a test's.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from typing import Final, cast, get_args

import torch
from safetensors.torch import save_file

from streamer_vllm.demo.architectures import (
    KINDS,
    SIZES,
    Dimensions,
    Kind,
    Weight,
    hf_config,
    weights,
)
from streamer_vllm.demo.tokenizer import VOCABULARY, write_tokenizer

FILES: Final = 4
INDEX_NAME: Final = "model.safetensors.index.json"
BYTES_PER_WEIGHT: Final = 2


def build_model(
    directory: str, kind: Kind = "llama", size: Dimensions = SIZES["tiny"], seed: int = 0
) -> int:
    """Write the whole model directory; return the number of bytes of its tensors."""
    os.makedirs(directory, exist_ok=True)
    _write_json(directory, "config.json", hf_config(kind, size, VOCABULARY))
    write_tokenizer(directory)
    return _write_weights(directory, list(weights(kind, size, VOCABULARY)), seed)


def _write_weights(directory: str, planned: Sequence[Weight], seed: int) -> int:
    generator = torch.Generator().manual_seed(seed)
    total = sum(_size_bytes(weight) for weight in planned)
    placed: dict[str, str] = {}
    for number, group in enumerate(_groups(planned, -(-total // FILES)), start=1):
        name = f"model-{number:05d}-of-{FILES:05d}.safetensors"
        tensors = {weight.name: _draw(weight, generator) for weight in group}
        save_file(tensors, os.path.join(directory, name), metadata={"format": "pt"})
        placed |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    _write_json(directory, INDEX_NAME, index)
    return total


def _groups(planned: Sequence[Weight], group_bytes: int) -> Iterator[list[Weight]]:
    """Cut the tensors into `FILES` groups of about the same size, in the same order."""
    groups: list[list[Weight]] = [[] for _ in range(FILES)]
    done = 0
    for weight in planned:
        groups[min(done // group_bytes, FILES - 1)].append(weight)
        done += _size_bytes(weight)
    yield from groups


def _size_bytes(weight: Weight) -> int:
    count = BYTES_PER_WEIGHT
    for width in weight.shape:
        count *= width
    return count


def _draw(weight: Weight, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
    return drawn.mul_(weight.scale).add_(weight.mean).to(torch.bfloat16)


def _write_json(directory: str, name: str, content: object) -> None:
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m streamer_vllm.demo.model", description=__doc__)
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--kind", choices=KINDS, default=get_args(Kind)[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    kind = cast("Kind", options.kind)
    total = build_model(options.directory, kind, SIZES[options.size], options.seed)
    print(f"{options.directory}: {kind}, {total / 1e6:.1f} MB in {FILES} files")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
