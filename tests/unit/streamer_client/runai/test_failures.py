from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from streamer_client.contract.errors import ConfigError, SourceForbidden, SourceNotFound
from streamer_client.copy.feed import FeedClosed
from streamer_client.runai.failures import as_os_error, as_runtime_error, as_value_error


def raised(error: Exception) -> ValueError:
    with pytest.raises(ValueError, match=str(error)) as caught, as_value_error():
        raise error
    return caught.value


def test_an_error_is_both_what_it_was_and_a_value_error() -> None:
    error = raised(SourceNotFound("no such bucket"))
    assert isinstance(error, SourceNotFound)
    assert not isinstance(error, SourceForbidden)
    assert (type(error).__name__, error.code) == ("SourceNotFound", "source-not-found")
    assert type(error.__cause__) is SourceNotFound


def test_one_that_takes_no_text_keeps_its_own() -> None:
    assert isinstance(raised(FeedClosed()), FeedClosed)


def test_what_is_a_value_error_already_passes() -> None:
    error = ConfigError("no")
    assert raised(error) is error


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), as_value_error():
        raise KeyError("x")


def test_it_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(raised(SourceNotFound("gone"))))  # noqa: S301
    assert isinstance(error, SourceNotFound)
    assert isinstance(error, ValueError)
    assert str(error) == "gone"


@pytest.mark.parametrize(
    ("context", "base"), [(as_runtime_error, RuntimeError), (as_os_error, OSError)]
)
def test_one_may_be_another_built_in_error_as_well(
    context: Callable[[], AbstractContextManager[None]], base: type[Exception]
) -> None:
    with pytest.raises(base, match="empty") as caught, context(), as_value_error():
        raise SourceNotFound("empty")
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    for one in (caught.value, error):
        assert isinstance(one, SourceNotFound)
        assert isinstance(one, ValueError)
        assert isinstance(one, base)
        assert str(one) == "empty"
