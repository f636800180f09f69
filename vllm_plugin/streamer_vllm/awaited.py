"""Calls an action on a module at the moment when other code imports the module.

Owns the import hook. Importing vLLM's modules takes seconds and imports torch, which an API server
may never need. So this plugin waits for the import and does not make it. Runs in every vLLM
process.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

Action = Callable[[ModuleType], None]


def when_imported(name: str, action: Action) -> None:
    """Call `action` with a module: now, or right after its import. Idempotent.

    Args:
        name: the module's full name.
        action: a function that may be called twice.
    """
    module = sys.modules.get(name)
    if module is not None:
        action(module)
    elif not any(isinstance(finder, Awaiting) and finder.awaits(name) for finder in sys.meta_path):
        sys.meta_path.insert(0, Awaiting(name, action))


class Awaiting(importlib.abc.MetaPathFinder):
    """A finder that finds nothing itself, and acts right after the one import that it awaits."""

    def __init__(self, name: str, action: Action) -> None:
        self._name = name
        self._action = action

    def awaits(self, name: str) -> bool:
        return name == self._name

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenAct(spec.loader, self._action)
        return spec


class _ThenAct(importlib.abc.Loader):
    """A module's own loader, followed by the action."""

    def __init__(self, inner: importlib.abc.Loader, action: Action) -> None:
        self._inner = inner
        self._action = action

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._inner
        self._inner.exec_module(module)
        self._action(module)
