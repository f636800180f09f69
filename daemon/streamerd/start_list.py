"""Brings in the sources of the setting `prefetch`, once the daemon serves.

The daemon opens no path itself. A separate process asks for each source as any client does, with
the service's rights and variables, and hands the files over. This module owns that process;
`cli/start_list.py` is its program. The process is started before any client can connect, since a
daemon that has clients' files open must not start another process (see
`workers/in_worker/spawner.py`). It waits for the list until the sockets are open. Runs in the
daemon's loop.
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
"""Seconds that the process may take to end after it was killed."""


class StartList:
    """The sources to bring in at start.

    Args:
        socket_path: the daemon's socket.
        wanted: the sources to bring in.
        log_format: the log format of the process.
    """

    def __init__(self, socket_path: str, wanted: Sequence[Prefetched], log_format: str) -> None:
        self._socket_path = socket_path
        self._wanted = tuple(wanted)
        self._log_format = log_format
        self._process: Process | None = None

    async def prepare(self) -> None:
        """Start the process, if there is a source to bring in.

        Raises:
            StreamerError: the process cannot be started.
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
        """Send the process the list; called when the sockets are open."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(msgspec.json.encode(self._wanted))
            self._process.stdin.close()

    async def stop(self) -> None:
        """End the process, if it has not ended by itself."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        # A process that waits for a file system in the kernel (state D) does not end. If the daemon
        # waited for it until systemd kills the daemon, no sidecars would be written for the next
        # one.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_GRACE_S)
