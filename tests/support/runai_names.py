"""Public names of a package's modules: `python -m tests.support.runai_names MODULE` tells them as JSON.

Of each module its own functions, classes with their public methods, and constants; what it only
imports from elsewhere belongs to no one who imports from it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from types import ModuleType
from typing import Any, Final

MODULES: Final = (
    "",
    "distributed_streamer",
    "distributed_streamer.distributed_streamer",
    "distributed_streamer.partition",
    "file_streamer",
    "file_streamer.file_streamer",
    "file_streamer.requests_iterator",
    "file_streamer.slot_pool",
    "libstreamer",
    "libstreamer.libstreamer",
    "s3_utils",
    "s3_utils.s3_utils",
    "safetensors_streamer",
    "safetensors_streamer.safetensors_pytorch",
    "safetensors_streamer.safetensors_streamer",
    "safetensors_streamer.streamer_mock",
)


def public_names(package: str) -> dict[str, list[str]]:
    """Module to names; a module that is not there has none."""
    return {module: _names(package, module) for module in MODULES}


def _names(package: str, module: str) -> list[str]:
    name = f"{package}.{module}" if module else package
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError:
        return []
    names = []
    for one in dir(found):
        value = getattr(found, one)
        if one.startswith("_") or inspect.ismodule(value):
            continue
        if not module or _is_own(found, value, one):
            names.append(one)
            if inspect.isclass(value):
                names += [f"{one}.{each}" for each in vars(value) if not each.startswith("_")]
    return sorted(names)


def _is_own(module: ModuleType, value: Any, name: str) -> bool:
    """Whether a name is defined in the module, or shown by its package on purpose."""
    home = getattr(value, "__module__", None)
    if home is None or not (inspect.isclass(value) or inspect.isfunction(value)):
        return name.isupper() and not hasattr(value, "__module__")
    inside = module.__name__ if hasattr(module, "__path__") else home
    return bool(home == module.__name__ or (hasattr(module, "__path__") and home.startswith(inside)))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(public_names(sys.argv[1]), indent=1) + "\n")
