"""The command line of the shard writer."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_vllm.sharding.command import Job, part_bytes, write_sharded


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("5GiB", 5 << 30), ("500MB", 500_000_000), ("4096", 4096), (" 1.5 kib", 1536), ("7b", 7)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert part_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GiB", "5 gigs", "-1", "0", "1e9", "0.1b"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"size|whole number"):
        part_bytes(text)


def test_a_working_directory_that_was_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match="working directory was removed"):
        write_sharded(Job("/models/m", "out"))
