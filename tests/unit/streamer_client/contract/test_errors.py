"""The tree of errors, and how errors travel across the socket."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from streamer_client.contract import errors
from streamer_client.contract.errors import StreamerError, error_from_code


def tree(root: type[StreamerError]) -> Iterator[type[StreamerError]]:
    """The classes of errors.py; classes that other modules derive do not cross the socket."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == StreamerError.__module__:
            yield from tree(child)


@pytest.mark.parametrize("kind", [*tree(StreamerError)], ids=lambda kind: kind.__name__)
def test_each_error_arrives_as_the_class_it_was(kind: type[StreamerError]) -> None:
    arrived = error_from_code(kind.code, "what happened; what to do")
    assert type(arrived) is kind
    assert str(arrived) == "what happened; what to do"


def test_codes_are_unique() -> None:
    kinds = list(tree(StreamerError))
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_an_unknown_code_is_still_an_error_of_ours() -> None:
    assert type(error_from_code("from-the-future", "m")) is StreamerError


def test_the_tree_at_the_top_of_the_module_is_the_tree() -> None:
    drawn = set(re.findall(r"── (\w+)", errors.__doc__ or ""))
    assert drawn == {kind.__name__ for kind in tree(StreamerError)} - {"StreamerError"}


def test_a_wrong_setting_is_a_value_error_too() -> None:
    assert issubclass(errors.ConfigError, ValueError)
