"""Errors of this package as the built-in classes that callers of Run:ai's API catch.

Run:ai raises a ValueError for nearly everything, a RuntimeError or an OSError in a few places. Here
each error is that built-in error and a typed error of this package at once, with its code and its
remedy. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.printable import printable

_LONGEST_ESCAPE: Final = len(r"\U0010ffff")

Bases = tuple[type[Exception], ...]


@contextmanager
def as_value_error() -> Iterator[None]:
    """Raise a StreamerError from the block as a ValueError, too."""
    with _also((ValueError,)):
        yield


@contextmanager
def as_runtime_error() -> Iterator[None]:
    """Raise a StreamerError from the block as a ValueError and RuntimeError, too."""
    with _also((ValueError, RuntimeError)):
        yield


@contextmanager
def as_os_error() -> Iterator[None]:
    """Raise a StreamerError from the block as a ValueError and OSError, too."""
    with _also((ValueError, OSError)):
        yield


@contextmanager
def _also(bases: Bases) -> Iterator[None]:
    try:
        yield
    except StreamerError as error:
        if all(isinstance(error, base) for base in bases):
            raise
        kind = error.kind if isinstance(error, _Both) else type(error)
        raise _rebuilt(kind, bases, tuple(map(_shown, error.args))) from error


def _shown(argument: object) -> object:
    """An error's text without control characters, which a store's keys may have; nothing is cut."""
    if not isinstance(argument, str):
        return argument
    return printable(argument, len(argument) * _LONGEST_ESCAPE)


class _Both(StreamerError):
    """A StreamerError of some kind that is also a built-in error; made from its text alone."""

    kind: ClassVar[type[StreamerError]]
    bases: ClassVar[Bases]

    def __init__(self, *arguments: object) -> None:
        Exception.__init__(self, *arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        # A class made at run time cannot be imported by the process that unpickles the error.
        return _rebuilt, (self.kind, self.bases, self.args)


def _rebuilt(
    kind: type[StreamerError], bases: Bases, arguments: tuple[object, ...]
) -> StreamerError:
    return _class_of(kind, bases)(*arguments)


_made: Final[dict[tuple[type[StreamerError], Bases], type[StreamerError]]] = {}


def _class_of(kind: type[StreamerError], bases: Bases) -> type[StreamerError]:
    """A subclass of `kind` and of built-in errors, with the name of `kind`; one for each pair."""
    members = {"__module__": __name__, "__doc__": kind.__doc__, "kind": kind, "bases": bases}
    more = tuple(base for base in bases if not issubclass(kind, base))
    made = type(kind.__name__, (_Both, kind, *more), members)
    return _made.setdefault((kind, bases), made)
