"""Text from outside cannot look like a line of the log, nor reach a terminal as a command."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from streamer_client.contract.limits import MAX_LOGGED_CHARACTERS
from streamerd.log_lines import LineFormatter, stderr_handler, with_lines

FORM = "%(levelname)s %(name)s %(message)s"
EVIL = "a\nERROR streamerd forged\r\x1b[2J\u202e.safetensors"


class Log:
    def __init__(self) -> None:
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(LineFormatter(FORM))
        self.handler = handler
        self.logger = logging.getLogger("streamerd.x")
        self.logger.addHandler(handler)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().removesuffix("\n").split("\n")


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.logger.removeHandler(made.handler)


def test_a_message_is_one_line(log: Log) -> None:
    log.logger.error("shard failed uri=%s code=%d", EVIL, 3)
    (line,) = log.lines
    assert line.isprintable()
    assert line == (
        "ERROR streamerd.x shard failed uri=a\\nERROR streamerd forged"
        "\\r\\x1b[2J\\u202e.safetensors code=3"
    )


def test_a_traceback_is_indented_and_so_is_what_an_error_says(log: Log) -> None:
    try:
        raise ValueError(EVIL)
    except ValueError:
        log.logger.exception("defect")
    first, *below = log.lines
    assert first == "ERROR streamerd.x defect"
    assert len(below) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in below)
    assert any("ERROR streamerd forged" in line for line in below)


def test_a_stack_is_indented(log: Log) -> None:
    log.logger.warning("where", stack_info=True)
    assert all(line.startswith("    ") for line in log.lines[1:])


def test_further_lines_are_indented(log: Log) -> None:
    log.logger.error("job failed", extra=with_lines(f"Traceback\n{EVIL}"))
    first, *below = log.lines
    assert first == "ERROR streamerd.x job failed"
    assert len(below) == 3
    assert all(line.startswith("    ") and line.isprintable() for line in below)


def test_a_line_is_no_longer_than_the_journal_takes(log: Log) -> None:
    log.logger.error("label=%s", "x" * 10_000_000)
    assert len(log.lines[0]) == MAX_LOGGED_CHARACTERS


def test_daemon_and_workers_log_so_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    handler = stderr_handler(FORM)
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr
    record = logging.LogRecord("streamerd", logging.INFO, "", 1, "uri=%s", (EVIL,), None)
    handler.handle(record)
    assert capsys.readouterr().err.count("\n") == 1
