from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.runai.settings import concurrency, memory_limit, mode


def test_silence_leaves_all_to_the_reader() -> None:
    assert (concurrency({}, "/m"), memory_limit({}, None)[0], mode({})) == (
        None,
        -1,
        "auto",
    )
    empty = {"RUNAI_STREAMER_CONCURRENCY": " ", "RUNAI_STREAMER_MEMORY_LIMIT": ""}
    assert (concurrency(empty, "/m"), memory_limit(empty, None)[0]) == (None, -1)


@pytest.mark.parametrize("limit", [-1, 0, 5368709120])
def test_numbers_are_taken(limit: int) -> None:
    assert concurrency({"RUNAI_STREAMER_CONCURRENCY": "16"}, "s3://m") == 16
    environ = {"RUNAI_STREAMER_MEMORY_LIMIT": str(limit)}
    assert memory_limit(environ, None) == (limit, "RUNAI_STREAMER_MEMORY_LIMIT")
    assert memory_limit(environ, 7) == (7, "memory_limit")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RUNAI_STREAMER_CONCURRENCY", "0"),
        ("RUNAI_STREAMER_CONCURRENCY", "many"),
        ("RUNAI_STREAMER_OBJ_CONCURRENCY", "-1"),
        ("RUNAI_STREAMER_MEMORY_LIMIT", "5GB"),
    ],
)
def test_what_makes_no_sense_is_named(variable: str, value: str) -> None:
    environ = {variable: value}
    with pytest.raises(ConfigError, match=f"{variable} is '?{value}"):
        _ = concurrency(environ, "s3://m"), memory_limit(environ, None)


def test_off_is_said_to_vllm_and_means_without_a_daemon_here() -> None:
    assert mode({"STREAMERD_MODE": "off"}) == "direct"
    assert mode({"STREAMERD_MODE": "required"}) == "required"


def test_object_stores_may_have_a_number_of_their_own() -> None:
    environ = {"RUNAI_STREAMER_CONCURRENCY": "16", "RUNAI_STREAMER_OBJ_CONCURRENCY": "4"}
    assert concurrency(environ, "s3://m") == 4
    assert concurrency(environ, "/m") == concurrency(environ, "file:///m") == 16
