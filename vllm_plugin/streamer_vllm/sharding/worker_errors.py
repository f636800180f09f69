"""Passes an error of a worker that writes shards on to the command that started it.

vLLM starts workers as processes of its own, and says of one that failed only that it did. So a
worker leaves its error in a file in the directory that it writes to, which the command removes with
all the rest. Runs in each worker, and in the command's process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from streamer_client.contract.errors import StreamerError, error_from_code

FILE: Final = ".worker-error"
"""Holds the error's code, a line's end and the error's text."""


@contextmanager
def leaving_errors(directory: str) -> Iterator[None]:
    """Leave an error of ours in the directory before it goes on; the first worker's counts."""
    try:
        yield
    except StreamerError as error:
        with suppress(OSError), open(os.path.join(directory, FILE), "x", encoding="utf-8") as file:
            file.write(f"{error.code}\n{error}")
        raise


@contextmanager
def raising_left_errors(directory: str) -> Iterator[None]:
    """Raise the error that a worker left in the directory, in place of vLLM's own.

    Raises:
        StreamerError: of the class and with the text that the worker's had.
    """
    try:
        yield
    except Exception as error:
        left = _left(directory)
        if left is None:
            raise
        raise left from error


def _left(directory: str) -> StreamerError | None:
    try:
        with open(os.path.join(directory, FILE), encoding="utf-8") as file:
            code, _, text = file.read().partition("\n")
    except OSError:
        return None
    return error_from_code(code, text)
