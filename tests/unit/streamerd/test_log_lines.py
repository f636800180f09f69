"""Text from outside cannot look like a line of the log, or reach a terminal as a command."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from streamer_client.contract.limits import MAX_LOGGED_CHARACTERS
from streamerd.log_lines import (
    JsonFormatter,
    LineFormatter,
    PriorityFormatter,
    last_words,
    stderr_handler,
    with_lines,
)

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


# --- as JSON --------------------------------------------------------------------------------------


def _record(text: str, *values: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("streamerd.x", level, "", 1, text, values, None)


def test_json_has_the_keys_of_the_call_with_their_types() -> None:
    text = "event=ready pid=%d uri=%s took_s=%.3f label=%r how=plain"
    line = JsonFormatter().format(_record(text, 7, EVIL, 0.25, "rank 0"))
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "level": "info", "logger": "streamerd.x", "pid": os.getpid(), "event": "ready",
        "event_pid": 7, "uri": EVIL, "took_s": 0.25, "label": "rank 0", "how": "plain",
    }  # fmt: skip
    assert line.isprintable()


@pytest.mark.parametrize(
    "record", [_record("connection lost to %s", "host"), _record("half=done and words")]
)
def test_other_texts_become_a_message(record: logging.LogRecord) -> None:
    told = json.loads(JsonFormatter().format(record))
    assert told["message"] == record.getMessage()
    assert "event" not in told


def test_json_is_json_whatever_the_values() -> None:
    values = (float("nan"), float("inf"), b"\x00\xff", "a\nb\u2028\udcff", True, None, 2**70)
    text = "event=x " + " ".join(f"v{at}=%s" for at in range(len(values)))
    line = JsonFormatter().format(_record(text, *values))

    def refuse(word: str) -> object:
        raise AssertionError(f"{word} is not JSON")

    told = json.loads(line, parse_constant=refuse)
    assert [told[f"v{at}"] for at in range(len(values))] == [
        "nan", "inf", str(values[2]), "a\nb\u2028\udcff", True, None, 2**70,
    ]  # fmt: skip
    assert line.isprintable()


def test_json_has_further_lines_and_tracebacks() -> None:
    record = _record("event=job_failed")
    record.further_lines = "Traceback\nValueError"
    assert json.loads(JsonFormatter().format(record))["lines"] == "Traceback\nValueError"
    try:
        raise ValueError(EVIL)
    except ValueError:
        failed = _record("event=defect")
        failed.exc_info = sys.exc_info()
    line = JsonFormatter().format(failed)
    assert line.isprintable()
    assert "ValueError" in json.loads(line)["lines"]


# --- in the journal -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "prefix"), [(10, "<7>"), (20, "<6>"), (30, "<4>"), (40, "<3>"), (50, "<2>")]
)
def test_each_line_has_its_priority(level: int, prefix: str) -> None:
    record = _record("event=x", level=level)
    record.further_lines = "one\ntwo"
    lines = PriorityFormatter(LineFormatter(FORM)).format(record).split("\n")
    assert len(lines) == 3
    assert all(line.startswith(prefix) for line in lines)


def test_only_the_journal_gets_priorities(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert last_words("streamerd: no") == "streamerd: no\n"
    found = os.fstat(2)
    monkeypatch.setattr(sys, "stderr", open(2, "w", closefd=False))  # noqa: SIM115
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    assert last_words("streamerd: no") == "<3>streamerd: no\n"
    stderr_handler(FORM, "json").handle(_record("event=ready"))
    assert capfd.readouterr().err.startswith('<6>{"time": ')
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    assert last_words("streamerd: no") == "streamerd: no\n"
