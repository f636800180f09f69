"""System errors as typed ones."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from streamer_client.contract.errors import (
    ConfigError,
    SourceError,
    SourceForbidden,
    SourceNotFound,
)
from streamer_client.storage.os_errors import absolute_path, real_path, source_error


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.EACCES, SourceForbidden, "chmod"),
        (errno.EPERM, SourceForbidden, "chmod"),
        (errno.ENOENT, SourceNotFound, "check the path"),
        (errno.ENOTDIR, SourceNotFound, "check the path"),
        (errno.EIO, SourceError, "kernel's log"),
        (errno.EMFILE, SourceError, "ulimit"),
        (errno.ELOOP, SourceError, "circle"),
        (errno.ENAMETOOLONG, SourceError, "too long"),
        (errno.EBADMSG, SourceError, "file system"),
    ],
)
def test_kind_and_remedy(number: int, kind: type[SourceError], told: str) -> None:
    error = source_error("/no/such/m", OSError(number, "x"), "read bytes 0 to 5")
    assert type(error) is kind
    assert str(error).startswith("/no/such/m: ")
    assert told in str(error)


def test_a_relative_path_in_a_directory_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for meant_by in (absolute_path, real_path):
        with pytest.raises(ConfigError, match="directory was removed; change to one that exists"):
            meant_by("model")
        assert meant_by("/m//model/.") == "/m/model"
    with pytest.raises(ConfigError, match="directory was removed"):
        raise source_error("../model", OSError(errno.EACCES, "x"), "open")


def test_links_are_followed_before_the_folder_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/deep")
    monkeypatch.chdir(tmp_path)
    assert real_path("link/../m") == str(tmp_path.resolve() / "far" / "m")
