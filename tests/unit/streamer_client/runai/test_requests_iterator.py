from __future__ import annotations

import pytest

from streamer_client.runai import FileChunks


def test_contiguous_ranges_follow_one_another() -> None:
    chunks = FileChunks.contiguous(4, "/m", 100, [8, 0, 2])
    assert (chunks.id, chunks.path) == (4, "/m")
    assert list(chunks.offsets) == [100, 108, 108]
    assert (chunks.total_size(), chunks.max_chunk_size()) == (10, 8)


def test_its_text_tells_how_much_is_asked_for() -> None:
    text = repr(FileChunks(4, "/m", [5, 1], [2, 3]))
    assert text == "FileChunks(id=4, path='/m', num_ranges=2, total_size=5)"


def test_each_range_needs_offset_and_size() -> None:
    with pytest.raises(ValueError, match="/m: 2 offsets and 1 sizes"):
        FileChunks(4, "/m", [5, 1], [2])
