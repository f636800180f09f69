"""Loggers are configured only if the variables ask for it, and then once."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from streamer_client.runai.log_settings import (
    CLIENT_LOGGER,
    PLUGIN_LOGGER,
    TRACE,
    configure_logging,
)

client, plugin = logging.getLogger(CLIENT_LOGGER), logging.getLogger(PLUGIN_LOGGER)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = [(one, one.level, list(one.handlers), one.propagate) for one in (client, plugin)]
    client.setLevel(logging.NOTSET)
    yield
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


def test_silence_changes_nothing() -> None:
    configure_logging({})
    assert (client.level, client.handlers, client.propagate) == (logging.NOTSET, [], True)


@pytest.mark.parametrize(
    ("named", "level"),
    [
        ("TRACE", TRACE),
        ("debug", logging.DEBUG),
        ("Info", logging.INFO),
        ("WARNING", logging.WARNING),
        ("ERROR", logging.ERROR),
    ],
)
def test_a_level_is_set_on_client_and_plugin(named: str, level: int) -> None:
    configure_logging({"RUNAI_STREAMER_LOG_LEVEL": named})
    assert (client.level, plugin.level) == (level, level)
    assert not client.handlers


def test_an_unknown_level_is_told_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    configure_logging({"RUNAI_STREAMER_LOG_LEVEL": "loud"})
    assert client.level == logging.NOTSET
    assert "value='loud' known=TRACE" in caplog.text


def test_to_stderr_once_and_nowhere_else(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        configure_logging({"RUNAI_STREAMER_LOG_TO_STDERR": "1"})
    logging.getLogger(f"{CLIENT_LOGGER}.x").info("event=%s", "seen")
    logging.getLogger(f"{CLIENT_LOGGER}.x").debug("event=%s", "hidden")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" INFO ")[2] for line in lines] == [f"{CLIENT_LOGGER}.x event=seen"]
    assert not caplog.records


def test_the_level_that_is_asked_for_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"RUNAI_STREAMER_LOG_TO_STDERR": "1", "RUNAI_STREAMER_LOG_LEVEL": "ERROR"}
    configure_logging(environ)
    logging.getLogger(f"{CLIENT_LOGGER}.x").warning("event=hidden")
    assert capsys.readouterr().err == ""
