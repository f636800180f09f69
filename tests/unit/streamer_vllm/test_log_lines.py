"""Log lines of the client and the plugin appear among vLLM's."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from streamer_vllm import log_lines
from streamer_vllm.log_lines import join_vllms_log


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The output of vLLM's logger, with loggers of the test in place of the real ones."""
    names = ("test_vllm", "test_client", "test_plugin")
    for constant, name in zip(
        ("VLLM_LOGGER", "CLIENT_LOGGER", "PLUGIN_LOGGER"), names, strict=True
    ):
        monkeypatch.setattr(log_lines, constant, name)
    lines: list[str] = []

    class Writing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname} [{record.filename}] {record.getMessage()}")

    vllm = logging.getLogger("test_vllm")
    vllm.setLevel(logging.INFO)
    vllm.addHandler(Writing())
    join_vllms_log()
    join_vllms_log()
    yield lines
    for name in names:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def test_a_line_has_level_file_rank_and_our_name(shown: list[str]) -> None:
    logging.getLogger("test_plugin.session").info("event=loaded bytes=%d", 5)
    logging.getLogger("test_client.launch").warning("event=no_daemon reason=%r", "x %d")
    assert shown == [
        "INFO [test_log_lines.py] streamerd: rank=0 event=loaded bytes=5",
        "WARNING [test_log_lines.py] streamerd: rank=0 event=no_daemon reason='x %d'",
    ]


def test_of_the_client_a_started_daemon_is_announced_and_other_news_is_not(
    shown: list[str],
) -> None:
    client = logging.getLogger("test_client")
    client.info("event=pulled files=3")
    client.info("event=daemon_started pid=%d socket=%s log=%s", 7, "/s", "/l")
    assert shown == [
        "INFO [test_log_lines.py] streamerd: rank=0 event=daemon_started pid=7 socket=/s log=/l"
    ]


def test_vllms_level_counts(shown: list[str]) -> None:
    logging.getLogger("test_vllm").setLevel(logging.ERROR)
    logging.getLogger("test_plugin").warning("event=x")
    assert not shown


def test_a_logger_that_somebody_configured_is_left_as_it_is(shown: list[str]) -> None:
    client = logging.getLogger("test_client")
    client.handlers[:] = [logging.NullHandler()]
    join_vllms_log()
    assert [type(handler) for handler in client.handlers] == [logging.NullHandler]
