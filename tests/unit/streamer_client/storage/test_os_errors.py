"""System errors as typed ones."""

from __future__ import annotations

import errno

import pytest

from streamer_client.contract.errors import SourceError, SourceForbidden, SourceNotFound
from streamer_client.storage.os_errors import source_error


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
