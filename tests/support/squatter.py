"""A user who listens at another user's socket path before that user's daemon does."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

from streamer_client.contract.socket import descriptor_socket


class Squatter:
    """A program of another user that listens at a path, and records what it receives."""

    def __init__(self, folder: Path, uid: int) -> None:
        folder.mkdir()
        self.path = folder / "control.sock"
        self._kinds = (socket.SOCK_SEQPACKET, socket.SOCK_STREAM)
        self._names = (descriptor_socket(str(self.path)), str(self.path))
        self._read_end, write_end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._read_end)
            self._listen(folder, uid, write_end)
        os.close(write_end)
        assert os.read(self._read_end, 1) == b"."

    def _listen(self, folder: Path, uid: int, ready: int) -> None:
        try:
            os.chown(folder, uid, uid)
            os.setgid(uid)
            os.setuid(uid)
            for kind, name in zip(self._kinds, self._names, strict=True):
                made = socket.socket(socket.AF_UNIX, kind)
                made.bind(name)
                os.chmod(name, 0o777)  # noqa: S103  so that its victim can connect
                made.listen()
                made.detach()
            os.write(ready, b".")
            signal.pause()
        finally:
            os._exit(0)

    def connections(self) -> int:
        """How many connections its two sockets have, by the kernel's table."""
        rows = Path("/proc/net/unix").read_text().splitlines()
        return sum(row.endswith(str(self.path)) and row.split()[5] == "03" for row in rows)

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._read_end)
        shutil.rmtree(self.path.parent)
