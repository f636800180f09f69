"""Brings in what the configuration's `prefetch` list names, once the daemon serves.

The daemon opens no path itself: a process of its own asks for each source as any client does, with
the service's rights and variables, and hands the files over. Owns that process: it is made before
any client can connect, since a process that has clients' files open must not start another (see
`workers/in_worker/spawner.py`), and it waits for the list until the sockets are open. Runs in the
daemon's loop; what the process does is in `cli/start_list.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from typing import Final

import msgspec

from streamer_client.contract.errors import StreamerError
from streamerd.settings.values import Prefetched
from streamerd.workers.start_messages import ISOLATED

STOP_GRACE_S: Final = 2.0
"""For how long the process may take to end after it was killed."""


class StartList:
    """The sources to bring in at start.

    Args:
        socket_path: the daemon's.
        wanted: the sources.
        log_format: of the process.
    """

    def __init__(self, socket_path: str, wanted: Sequence[Prefetched], log_format: str) -> None:
        self._socket_path = socket_path
        self._wanted = tuple(wanted)
        self._log_format = log_format
        self._process: Process | None = None

    async def prepare(self) -> None:
        """Start the process, where there is something to bring in.

        Raises:
            StreamerError: it cannot be made.
        """
        if not self._wanted:
            return
        module = ("-m", "streamerd.cli.start_list", self._socket_path, self._log_format)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *ISOLATED, *module, stdin=PIPE, stdout=DEVNULL
            )
        except OSError as error:
            raise StreamerError(f"cannot start what reads the prefetch list: {error}") from error

    def begin(self) -> None:
        """Tell the process what to bring in; called when the sockets are open."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(msgspec.json.encode(self._wanted))
            self._process.stdin.close()

    async def stop(self) -> None:
        """End the process, if it has not ended by itself."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        # A process that a file system holds (state D) does not end. What is in memory would not be
        # written down for the next daemon if this one waited for it until systemd kills it.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_GRACE_S)
