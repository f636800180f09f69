"""Errors as callers of Run:ai's API expect them: whatever goes wrong is a ValueError.

Here it is the typed error of this package as well, with its code and its remedy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from streamer_client.contract.errors import StreamerError


@contextmanager
def as_value_error() -> Iterator[None]:
    """Raise a StreamerError that passes through as one that is a ValueError too."""
    try:
        yield
    except StreamerError as error:
        if isinstance(error, ValueError):
            raise
        raise _rebuilt(type(error), error.args) from error


class _Both(StreamerError):
    """A StreamerError of some kind that is a ValueError; made from its text alone."""

    kind: ClassVar[type[StreamerError]]

    def __init__(self, *arguments: object) -> None:
        Exception.__init__(self, *arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.kind, self.args)  # its class is made, not imported


def _rebuilt(kind: type[StreamerError], arguments: tuple[object, ...]) -> StreamerError:
    return _class_of(kind)(*arguments)


_made: Final[dict[type[StreamerError], type[StreamerError]]] = {}


def _class_of(kind: type[StreamerError]) -> type[StreamerError]:
    """A subclass of `kind` and of ValueError that goes by the same name; one for each kind."""
    members = {"__module__": __name__, "__doc__": kind.__doc__, "kind": kind}
    return _made.setdefault(kind, type(kind.__name__, (_Both, kind, ValueError), members))
