"""Opening checkpoints: through the daemon, or in this process alone.

Owns the checkpoints that a client opened, and closes them with the client. `delivery/openers.py`
decides where their bytes come from, and `launch.py` what a `mode` means. Runs in the caller's
thread.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from streamer_client.connecting.link import RECONNECT_S, Link
from streamer_client.connecting.open_request import Source, open_request
from streamer_client.connecting.requests import Admin
from streamer_client.contract.options import LoadArguments, LoadOptions
from streamer_client.delivery.openers import DaemonOpener, DirectOpener, Opener
from streamer_client.stats import Progress
from streamer_client.storage.registry import public_uri

if TYPE_CHECKING:
    from streamer_client.checkpoint import Checkpoint
    from streamer_client.copy.feed import Feed


class Client:
    """Opens checkpoints. A context manager: leaving it closes it and the checkpoints it opened.

    Args:
        opener: decides where the checkpoints' bytes come from.
        admin: requests to the daemon; None without one.
    """

    def __init__(self, opener: Opener, admin: Admin | None = None) -> None:
        self._opener = opener
        self._admin = admin
        self._checkpoints: weakref.WeakSet[Checkpoint] = weakref.WeakSet()
        self._finalizer = weakref.finalize(self, opener.close)
        self._finalizer.atexit = False

    @property
    def admin(self) -> Admin:
        """Status, prefetch and cache control.

        Raises:
            DaemonUnavailable: this client reads without a daemon.
        """
        return Admin.none() if self._admin is None else self._admin

    @property
    def socket(self) -> str | None:
        """Path of the daemon's socket; None when this client reads without a daemon."""
        return None if self._admin is None else self._admin.socket

    def open(
        self,
        source: Source | Sequence[Source],
        pattern: str | None = None,
        files: Sequence[Source] | None = None,
        *,
        owners: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        page_cache: bool = False,
        **options: Unpack[LoadArguments],
    ) -> Checkpoint:
        """Open a checkpoint.

        Args:
            source: directory, file or object-store prefix; or a list of files.
            pattern: glob on file names directly under `source`; `*.safetensors` by default.
            files: the only files to read, in this order.
            owners: for a tensor that is in several of `files`, the file that counts in `catalog`
                and `tensors`. A tensor without an owner must not be in two files.
            progress: see `stats.Progress`.
            page_cache: see `OpenRequest`.
            options: `hold`, `memory_limit`, `concurrency`: see `LoadOptions`.

        Raises:
            SourceError: the checkpoint cannot be read.
            MemoryLimitError: the checkpoint can never fit.
            DaemonUnavailable: the daemon is gone and did not come back.
        """
        from streamer_client.checkpoint import Checkpoint  # noqa: PLC0415  torch, only when needed

        chosen = LoadOptions(**options)
        request = open_request(source, pattern, files, options=chosen, page_cache=page_cache)
        name = public_uri(request.source)
        numbers = _shard_numbers(files or (), owners)
        told = self._opener.tell_copied
        checkpoint = Checkpoint(self._opener.feed(request), name, progress, numbers, told)
        self._checkpoints.add(checkpoint)
        return checkpoint

    def open_feed(self, files: Sequence[Source], **options: Unpack[LoadArguments]) -> Feed:
        """Open any files and return their feed, for callers who read bytes without a `Checkpoint`.

        The caller closes the feed.

        Args:
            files: the files, each once, all of one kind of source.
            options: the options of a load, as in `open`.

        Raises:
            StreamerError: as in `open`.
        """
        return self._opener.feed(open_request(files, options=LoadOptions(**options)))

    def close(self) -> None:
        """Close all checkpoints and leave the daemon; views stay valid. Idempotent."""
        for checkpoint in list(self._checkpoints):
            checkpoint.close()
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _shard_numbers(
    files: Sequence[Source], owners: Mapping[str, str] | None
) -> dict[str, int] | None:
    if owners is None:
        return None
    numbers = {os.fspath(file): number for number, file in enumerate(files)}
    return {name: numbers[file] for name, file in owners.items() if file in numbers}


def daemon_client(
    socket_path: str,
    label: str = "",
    reconnect_s: float = RECONNECT_S,
    environ: Mapping[str, str] = os.environ,
) -> Client:
    """A client of the daemon at a socket; `reconnect_s` is how long to look for a new one.

    Raises:
        DaemonUnavailable: nothing answers.
        ProtocolMismatch: the daemon speaks another version.
    """
    link = Link(socket_path, label, reconnect_s)
    return Client(DaemonOpener(link, environ), Admin(link))


def direct_client(environ: Mapping[str, str] = os.environ) -> Client:
    """A client that reads without a daemon."""
    return Client(DirectOpener(environ))
