"""What ranks see of a `DistributedStreamer`; torch's launcher runs `runai_ranks.py MODULE ROOT`.

Rank 0 writes what all ranks saw, by case and in the order of ranks. ROOT is a directory that
`runai_package.write_cases` filled.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist


def tried(call: Callable[[], object]) -> object:
    try:
        return call()
    except (RuntimeError, ValueError):
        return "raises"  # which of two errors a rank sees depends on timing


def chunks(api: Any, path: str, wanted: bool = True, size: int = 2) -> object:
    with api.DistributedStreamer() as streamer:
        streamer.stream_files([api.FileChunks(3, path, [0, 8], [1, size])], None, "cpu", wanted)
        seen = sorted((file, place) for file, place, _ in streamer.get_chunks())
        return [streamer.is_distributed, streamer.get_group_size(), seen]


def tensors(api: Any, path: str) -> object:
    with api.SafetensorsStreamer() as streamer:
        streamer.stream_file(path, is_distributed=True)
        return sorted(name for name, _ in streamer.get_tensors())


def run(module: str, root: str) -> None:
    api = importlib.import_module(module)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    one, none = f"{root}/m/one.safetensors", f"{root}/none"
    told: dict[str, object] = {}

    def tell(title: str, call: Callable[[], object], value: str | None = "1") -> None:
        os.environ.pop("RUNAI_STREAMER_DIST", None)
        if value is not None:
            os.environ["RUNAI_STREAMER_DIST"] = value
        seen: list[object] = [None] * dist.get_world_size()
        dist.all_gather_object(seen, tried(call))
        told[title] = seen

    for value in (None, "0", "auto", "1", "perhaps"):
        tell(f"RUNAI_STREAMER_DIST={value}", lambda: chunks(api, one), value)
    tell("not asked for", lambda: chunks(api, one, wanted=False))
    tell("tensors", lambda: tensors(api, one))
    tell("a missing file in all ranks", lambda: chunks(api, none))
    os.environ["RUNAI_STREAMER_DIST_TIMEOUT"] = "5"
    tell("a missing file in one rank", lambda: chunks(api, none if rank else one))
    tell("a range past the end in one rank", lambda: chunks(api, one, size=900 if rank else 2))
    if rank == 0:
        sys.stdout.write(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    run(*sys.argv[1:])
