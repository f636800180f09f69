"""An error of a worker reaches the command, which sees only that the worker failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer_client.contract.errors import ConfigError, SourceNotFound
from streamer_vllm.sharding.worker_errors import leaving_errors, raising_left_errors


def fail_in_worker(directory: Path, error: Exception) -> None:
    with pytest.raises(type(error)), leaving_errors(str(directory)):
        raise error


def fail_in_command(directory: Path) -> None:
    with raising_left_errors(str(directory)):
        raise RuntimeError("a worker failed")


def test_the_first_worker_that_failed_is_heard(tmp_path: Path) -> None:
    fail_in_worker(tmp_path, SourceNotFound("no /models/x; name another"))
    fail_in_worker(tmp_path, ConfigError("of another rank"))
    with pytest.raises(SourceNotFound, match=r"^no /models/x; name another$") as caught:
        fail_in_command(tmp_path)
    assert str(caught.value.__cause__) == "a worker failed"


def test_an_error_that_is_not_ours_stays_vllms(tmp_path: Path) -> None:
    fail_in_worker(tmp_path, KeyError("weight"))
    with pytest.raises(RuntimeError, match="a worker failed"):
        fail_in_command(tmp_path)


def test_workers_that_did_not_fail(tmp_path: Path) -> None:
    with raising_left_errors(str(tmp_path)), leaving_errors(str(tmp_path)):
        pass
    assert not list(tmp_path.iterdir())
