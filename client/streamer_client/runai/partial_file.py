"""A local file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from types import TracebackType
from typing import Self


class PartialFile:
    """A file written under another name beside `path`, and renamed to it when left without error.

    Readers of an earlier file at `path` keep what they have.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> Self:
        directory, name = os.path.split(self._path)
        os.makedirs(directory, exist_ok=True)
        self._fd, self._temporary = tempfile.mkstemp(prefix=f".{name[:64]}.", dir=directory)
        return self

    def write(self, data: memoryview, start: int) -> None:
        """Put bytes at `start`."""
        while data:
            written = os.pwrite(self._fd, data, start)
            data, start = data[written:], start + written

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                os.fchmod(self._fd, 0o666 & ~_umask())  # a temporary file is its owner's alone
                os.replace(self._temporary, self._path)
        finally:
            os.close(self._fd)
            with contextlib.suppress(FileNotFoundError):  # it goes by its name now
                os.unlink(self._temporary)


def _umask() -> int:
    """The process's mask, read without setting it: other threads make files meanwhile."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
