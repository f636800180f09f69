"""What a user asks to open, checked and brought into the form that daemon and storage take.

Pure but for the working directory, which makes relative paths absolute.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypedDict

import msgspec

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.uris import has_scheme

Source = str | os.PathLike[str]


class LoadArguments(TypedDict, total=False):
    """What a caller may say about a load; see `LoadOptions` for each."""

    hold: bool
    memory_limit: int
    concurrency: int | None
    page_cache: bool


class LoadOptions(msgspec.Struct, frozen=True):
    """How a source is to be loaded.

    Raises:
        ConfigError: a value is out of its range; the text names it.
    """

    hold: bool = True
    """Keep whole shards resident as long as views of them live. Without it, or where they do not
    fit, tensors are private copies and memory is given back on the way; nothing is read before a
    pass wants it."""
    memory_limit: int = -1
    """Bytes that this load may hold at once; -1 no limit, 0 the least."""
    concurrency: int | None = None
    """How many reads at once; of an object store, how many connections."""
    page_cache: bool = False
    """Copies of all tensors may be made from the page cache, where that holds the files and the
    daemon does not yet: it brings them in afterwards. Saves a first load the way through shared
    memory."""

    def __post_init__(self) -> None:
        if self.memory_limit < -1:
            raise ConfigError(
                f"memory_limit is {self.memory_limit}; it is -1, 0 or a number of bytes"
            )
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(
                f"concurrency is {self.concurrency}; it is a positive number of threads"
            )


class OpenRequest(msgspec.Struct, frozen=True):
    """A checked request; paths are absolute, for the daemon has another working directory."""

    source: str
    pattern: str | None
    files: tuple[str, ...] | None
    options: LoadOptions


def open_request(
    source: Source | Sequence[Source],
    *,
    pattern: str | None = None,
    files: Sequence[Source] | None = None,
    options: LoadOptions | None = None,
) -> OpenRequest:
    """Check the arguments of `open`; a sequence for `source` means `files`.

    Raises:
        ConfigError: names the argument that is wrong.
    """
    if not isinstance(source, (str, os.PathLike)):
        if files is not None:
            raise ConfigError("`source` is a list already; leave `files` out")
        files, source = source, ""
    if files is not None and not files:
        raise ConfigError("the list of files is empty; name at least one file")
    named = os.fspath(source)
    paths = None if files is None else tuple(_absolute(named, os.fspath(one)) for one in files)
    return OpenRequest(
        source=_absolute("", named) if named or not paths else _parent(paths[0]),
        pattern=pattern,
        files=paths,
        options=options or LoadOptions(),
    )


def _absolute(base: str, path: str) -> str:
    if has_scheme(path):
        return path
    if has_scheme(base) and not os.path.isabs(path):
        return f"{base.rstrip('/')}/{path}"
    return os.path.abspath(os.path.join(base, path))


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"
