"""Whatever a key says, its file lies under the directory that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer_client.contract.errors import SourceError
from streamer_client.runai.pulling import destination


def test_names_keep_their_folders(tmp_path: Path) -> None:
    assert destination(str(tmp_path), "a/b.json", "s3://m/a/b.json") == str(tmp_path / "a/b.json")
    assert destination(str(tmp_path), "..a/...", "s3://m/..a/...") == str(tmp_path / "..a/...")


@pytest.mark.parametrize(
    "relative",
    ["../x", "a/../../x", "a/..", "..", ".", "", "/etc/passwd", "a//b", "a/./b", "a/", "a\0b"],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(SourceError, match="s3://m/k: its name would be written outside of"):
        destination(str(tmp_path), relative, "s3://m/k")


def test_a_link_in_the_way_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "dst", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "a").symlink_to(outside)
    with pytest.raises(SourceError, match="outside of"):
        destination(str(inside), "a/x", "s3://m/a/x")
