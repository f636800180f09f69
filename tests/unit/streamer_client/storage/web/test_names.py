"""The files that an index names."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import SourceError
from streamer_client.storage.web.names import files_of_index, is_glob


def test_each_file_once() -> None:
    body = b'{"metadata": {"total_size": 1}, "weight_map": {"x": "b.st", "y": "a.st", "z": "b.st"}}'
    assert files_of_index("i", body) == ["b.st", "a.st"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"weight_map": [1]}', b'{"weight_map": {"x": 1}}']
)
def test_what_is_no_index(body: bytes) -> None:
    with pytest.raises(SourceError, match="i: is no index"):
        files_of_index("i", body)


@pytest.mark.parametrize("name", ["../a", "/a", "https://h/a", "a/../../b"])
def test_files_elsewhere(name: str) -> None:
    with pytest.raises(SourceError, match="not beside it"):
        files_of_index("i", b'{"weight_map": {"x": "%s"}}' % name.encode())


def test_globs() -> None:
    assert [is_glob(text) for text in ("a*", "a?", "a[1]", "a.st")] == [True, True, True, False]
