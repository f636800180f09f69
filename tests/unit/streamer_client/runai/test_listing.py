"""A pattern takes a file by its name within the source, by its whole key, or by its URI."""

from __future__ import annotations

import pytest

from streamer_client.runai.listing import wanted

URI = "s3://bucket/models/llama/sub/config.json"


@pytest.mark.parametrize(
    "pattern",
    ["*.json", "sub/config.json", "models/llama/*", "sub/*", "s3://bucket/models/*", "*config*"],
)
def test_taken(pattern: str) -> None:
    assert wanted(URI, "sub/config.json", [pattern], None)
    assert wanted(URI, "sub/config.json", ["*.model", pattern], [])
    assert not wanted(URI, "sub/config.json", None, [pattern])
    assert not wanted(URI, "sub/config.json", ["*"], ["*.bin", pattern])


@pytest.mark.parametrize("pattern", ["config.json", "*.JSON", "bucket/*", "llama/*", ""])
def test_not_taken(pattern: str) -> None:
    assert not wanted(URI, "sub/config.json", [pattern], None)
    assert wanted(URI, "sub/config.json", None, [pattern])


def test_no_pattern_takes_all_and_an_empty_list_nothing() -> None:
    assert wanted(URI, "sub/config.json", None, None)
    assert not wanted(URI, "sub/config.json", [], None)


def test_a_path_has_no_key() -> None:
    assert wanted("/models/a.json", "a.json", ["/models/*"], None)
    assert not wanted("/models/a.json", "a.json", ["models/*"], None)
