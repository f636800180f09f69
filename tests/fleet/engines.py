"""What tells a fleet who is there: a real etcd, and a name server in place of Kubernetes' own."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.fleet.network import HUB_ADDRESS
from tests.support.visitor import REPOSITORY
from tests.support.waiting import eventually

ETCD_PORT: Final = 2379
SERVICE: Final = "streamerd.fleet.test"


class Etcd:
    """One etcd; may be ended and started again with its data."""

    def __init__(self, folder: Path, before: Sequence[str]) -> None:
        self.uri = f"etcd://{HUB_ADDRESS}:{ETCD_PORT}"
        self._folder = folder
        self._before = before
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        here, peers = f"http://{HUB_ADDRESS}:{ETCD_PORT}", f"http://{HUB_ADDRESS}:2380"
        log = (self._folder / "etcd.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    *self._before, "etcd", f"--data-dir={self._folder / 'etcd'}",
                    f"--listen-client-urls={here}", f"--advertise-client-urls={here}",
                    f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}",
                    f"--initial-cluster=default={peers}", "--log-level=error",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        eventually(self._listens, 20, "etcd listens")

    def _listens(self) -> bool:
        ask = "import socket; socket.create_connection(('{}', {}), 1).close()"
        command = [*self._before, sys.executable, "-c", ask.format(HUB_ADDRESS, ETCD_PORT)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def end(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None


class NameServer:
    """Answers one name with the addresses in a file, as DNS does for a headless Service."""

    def __init__(self, folder: Path, before: Sequence[str]) -> None:
        self._addresses = folder / "addresses"
        self.resolv_conf = folder / "resolv.conf"
        self.resolv_conf.write_text(f"nameserver {HUB_ADDRESS}\noptions timeout:1 attempts:2\n")
        self.tell([])
        program = [sys.executable, "-m", "tests.fleet.engines", str(self._addresses)]
        self._process = subprocess.Popen([*before, *program], cwd=REPOSITORY)

    def tell(self, addresses: Sequence[str]) -> None:
        """From now on these are the addresses of the name."""
        new = self._addresses.with_suffix(".new")
        new.write_text("\n".join(addresses))
        new.rename(self._addresses)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(10)


# --- the name server's program --------------------------------------------------------------------


def answer(question: bytes, addresses: Sequence[str]) -> bytes:
    """The answer to one question of RFC 1035: A records for `SERVICE`, nothing of other types."""
    (number,) = struct.unpack_from("!H", question)
    labels, at = [], 12
    while size := question[at]:
        labels.append(question[at + 1 : at + 1 + size].decode().lower())
        at += size + 1
    (kind,) = struct.unpack_from("!H", question, at + 1)
    known = ".".join(labels) == SERVICE
    found = addresses if known and kind == 1 else ()
    header = struct.pack("!6H", number, 0x8580 | (0 if known else 3), 1, len(found), 0, 0)
    records = (
        struct.pack("!3HIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(address) for address in found
    )
    return header + question[12 : at + 5] + b"".join(records)


def main() -> None:
    addresses = Path(sys.argv[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
        here.bind((HUB_ADDRESS, 53))
        while os.getppid() != 1:
            question, who = here.recvfrom(1500)
            here.sendto(answer(question, addresses.read_text().split()), who)


if __name__ == "__main__":
    main()
