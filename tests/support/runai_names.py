"""Public names of a package's modules; `python -m tests.support.runai_names MODULE` prints them.

These are a module's own functions, its classes with their public methods, and its constants. Names
that a module only imports are not counted.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any, Final

RECORD: Final = Path(__file__).with_name("runai_0_17_names.json")


def recorded_names() -> dict[str, list[str]]:
    """The names of 0.17, as they were recorded."""
    return _recorded()["names"]


def recorded_exceptions() -> dict[str, list[str]]:
    """The exceptions of 0.17 and their bases, as they were recorded."""
    return _recorded()["exceptions"]


def _recorded() -> dict[str, dict[str, list[str]]]:
    record: dict[str, dict[str, list[str]]] = json.loads(RECORD.read_text())
    return record


def lacking(package: str) -> dict[str, list[str]]:
    """The recorded names that a package lacks, by module; modules that lack none are left out."""
    missing = {
        module: [name for name in names if not _has(package, module, name)]
        for module, names in recorded_names().items()
    }
    return {module: names for module, names in missing.items() if names}


def _has(package: str, module: str, name: str) -> bool:
    try:
        found = _module(package, module)
        reduce(getattr, name.split("."), found)
    except (ModuleNotFoundError, AttributeError):
        return False
    return True


def public_names(package: str) -> dict[str, list[str]]:
    """The names of each module, for the package and every module below it except its own tests."""
    return {module: _names(package, module) for module in _modules(package)}


def exceptions(package: str) -> dict[str, list[str]]:
    """Each class of exceptions that the modules define, with the names of all its base classes."""
    return {
        f"{module}.{name}": sorted(one.__name__ for one in value.__mro__[1:])
        for module in _modules(package)
        for name, value in vars(_module(package, module)).items()
        if inspect.isclass(value)
        and issubclass(value, BaseException)
        and value.__module__ == _module(package, module).__name__
    }


def _modules(package: str) -> list[str]:
    home = importlib.import_module(package)
    found = [one.name for one in pkgutil.walk_packages(home.__path__, f"{package}.")]
    names = [name.removeprefix(f"{package}.") for name in found]
    return ["", *(name for name in names if "tests" not in name.split("."))]


def _module(package: str, module: str) -> ModuleType:
    return importlib.import_module(f"{package}.{module}" if module else package)


def _names(package: str, module: str) -> list[str]:
    found = _module(package, module)
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
    """Whether a name is defined in the module, or exported by its package on purpose."""
    home = getattr(value, "__module__", None)
    if home is None or not (inspect.isclass(value) or inspect.isfunction(value)):
        return name.isupper() and not hasattr(value, "__module__")
    inside = module.__name__ if hasattr(module, "__path__") else home
    return bool(
        home == module.__name__ or (hasattr(module, "__path__") and home.startswith(inside))
    )


if __name__ == "__main__":
    told = {"names": public_names(sys.argv[1]), "exceptions": exceptions(sys.argv[1])}
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
