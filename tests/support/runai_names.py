"""Public names of a package's modules; `python -m tests.support.runai_names MODULE` tells them.

Of each module its own functions, classes with their public methods, and constants; what a
module only imports from elsewhere is not counted.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from functools import reduce
from pathlib import Path
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


RECORD: Final = Path(__file__).with_name("runai_0_17_names.json")


def recorded_names() -> dict[str, list[str]]:
    """The names of 0.17, as they were recorded."""
    names: dict[str, list[str]] = json.loads(RECORD.read_text())
    return names


def lacking(package: str) -> dict[str, list[str]]:
    """The recorded names that a package lacks, by module; modules that lack none are left out."""
    missing = {
        module: [name for name in names if not _has(package, module, name)]
        for module, names in recorded_names().items()
    }
    return {module: names for module, names in missing.items() if names}


def _has(package: str, module: str, name: str) -> bool:
    try:
        found = importlib.import_module(f"{package}.{module}" if module else package)
        reduce(getattr, name.split("."), found)
    except (ModuleNotFoundError, AttributeError):
        return False
    return True


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
    return bool(
        home == module.__name__ or (hasattr(module, "__path__") and home.startswith(inside))
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(public_names(sys.argv[1]), indent=1) + "\n")
