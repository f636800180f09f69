"""What a user asks to open, checked and brought into the form that daemon and storage take.

Pure but for the working directory, which makes relative paths absolute.
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
    """A checked request; paths are absolute, for the daemon has another working directory."""

    source: str
    pattern: str | None
    files: tuple[str, ...] | None
    options: LoadOptions
    page_cache: bool
    """Copies of all tensors may be made from the page cache, where that holds the files and the
    daemon does not yet: it brings them in afterwards. Saves a first load the way through shared
    memory."""


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
        ConfigError: names the argument that is wrong.
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
