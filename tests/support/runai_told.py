"""The steps of a case, and the tables that hold cases. Needs only the standard library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Steps = list[list[str]]
Case = Callable[[Any, str], Steps]

CATCHABLE = (
    "NotImplementedError",
    "OSError",
    "RunaiStreamerInvalidInputException",
    "RunaiStreamerMemoryLimitException",
    "RuntimeError",
    "ValueError",
)
FILES: dict[str, Case] = {}
OBJECTS: dict[str, Case] = {}


def case(*where: dict[str, Case]) -> Callable[[Case], Case]:
    """Put a case into tables, with its docstring as the key."""

    def put(function: Case) -> Case:
        assert function.__doc__
        for table in where:
            table[function.__doc__.rstrip(".")] = function
        return function

    return put


class Told:
    """Records the steps of a case."""

    def __init__(self, root: str) -> None:
        self.steps: Steps = []
        self._root = root

    def __call__(self, call: str, function: Callable[..., object], *arguments: Any) -> None:
        try:
            answer = str(function(*arguments))
        except Exception as error:  # noqa: BLE001  every error is reported
            names = {one.__name__ for one in type(error).__mro__}
            answer = " ".join(["raises", *(name for name in CATCHABLE if name in names)])
        self.steps.append([call, answer.replace(self._root, "ROOT")])


def named(found: list[Any]) -> list[Any]:
    return sorted(tuple(one) if isinstance(one, list) else one for one in found)


both = (FILES, OBJECTS)
