"""The request to open a source, checked and in the form that daemon and storage take.

Pure, except that relative paths are made absolute by the working directory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.options import LoadOptions
from streamer_client.contract.uris import has_scheme
from streamer_client.storage.os_errors import absolute_path

Source = str | os.PathLike[str]


class OpenRequest(msgspec.Struct, frozen=True):
    """A checked request; its paths are absolute, for the daemon has another working directory."""

    source: str
    pattern: str | None
    files: tuple[str, ...] | None
    options: LoadOptions
    page_cache: bool
    """Whether copies of all tensors may come from the page cache, where that holds the files and
    the daemon does not hold them yet. This spares a first load the detour through shared memory;
    the daemon brings the files in afterwards."""


def open_request(
    source: Source | Sequence[Source],
    pattern: str | None = None,
    files: Sequence[Source] | None = None,
    *,
    options: LoadOptions | None = None,
    page_cache: bool = False,
) -> OpenRequest:
    """Check the arguments of `open`; a sequence for `source` means `files`.

    Raises:
        ConfigError: an argument is wrong; the text names it.
    """
    chosen = options or LoadOptions()
    chosen.check()
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
        options=chosen,
        page_cache=page_cache,
    )


def _absolute(base: str, path: str) -> str:
    if has_scheme(path):
        return path
    if has_scheme(base) and not os.path.isabs(path):
        return f"{base.rstrip('/')}/{path}"
    return absolute_path(os.path.join(base, path))


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"
