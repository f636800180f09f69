"""Signatures of a module's Run:ai API: `python runai_signatures.py MODULE` prints them as JSON."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from typing import Any, Final

NAMES: Final = (
    "SafetensorsStreamer",
    "FileStreamer",
    "DistributedStreamer",
    "FileChunks",
    "ObjectStorageModel",
    "list_safetensors",
    "pull_files",
)

NOT_OFFERED: Final = frozenset(
    {
        # These methods pass handles of Run:ai's C++ library, which is not there.
        "FileStreamer.handle_object_store",
        "FileStreamer.drain_live_submissions",
    }
)


def parameters(function: Any) -> list[list[str]]:
    """Name, default and kind of each parameter; the name of `self` and the like does not matter."""
    found = inspect.signature(function).parameters.values()
    return [
        [one.name, "" if one.default is one.empty else repr(one.default), one.kind.name]
        for one in found
        if one.name != "self"
    ]


def signatures(module: str) -> dict[str, list[list[str]]]:
    api = importlib.import_module(module)
    table = {}
    for name in NAMES:
        one = getattr(api, name)
        if inspect.isfunction(one):
            table[name] = parameters(one)
            continue
        for method, function in inspect.getmembers(one, inspect.isfunction):
            public = not method.startswith("_") or method in ("__init__", "__enter__", "__exit__")
            if public and f"{name}.{method}" not in NOT_OFFERED:
                table[f"{name}.{method}"] = parameters(function)
    return table


if __name__ == "__main__":
    sys.stdout.write(json.dumps(signatures(sys.argv[1])))
