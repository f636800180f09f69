"""Shards with one fault, such as an operator may cause who copies them by hand.

Owns the faults and the copies that have them; the test compares the loader's errors. Runs in each
rank, which damages a copy of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save_file

from streamer_vllm.sharding.made_for import NOTE_NAME

OTHER_VLLM: Final = "0.1.0"
"""A version of vLLM that wrote none of these files."""


def damaged_copy(shards: Path, damage: str, rank: int) -> Path:
    """A copy of a sharded checkpoint whose files for this rank have the damage of this name."""
    out = shards.with_name(f"{shards.name}-{damage}-{rank}")
    shutil.copytree(shards, out)
    DAMAGES[damage](out, sorted(out.glob(f"model-rank-{rank}-part-*.safetensors")))
    return out


def _lose_part(_directory: Path, parts: list[Path]) -> None:
    parts[-1].unlink()


def _add_part(directory: Path, parts: list[Path]) -> None:
    shutil.copyfile(parts[0], directory / parts[0].name.replace("part-0", "part-77"))


def _lose_tensor(_directory: Path, parts: list[Path]) -> None:
    tensors = load_file(parts[0])
    del tensors[min(tensors)]
    save_file(tensors, parts[0])


def _lose_tensor_of_another_vllm(directory: Path, parts: list[Path]) -> None:
    _lose_tensor(directory, parts)
    path = directory / NOTE_NAME
    note: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps(note | {"vllm": OTHER_VLLM}))


DAMAGES: Final[Mapping[str, Callable[[Path, list[Path]], None]]] = {
    "missing-part": _lose_part,
    "extra-part": _add_part,
    "missing-tensor": _lose_tensor,
    "another-vllm": _lose_tensor_of_another_vllm,
}
