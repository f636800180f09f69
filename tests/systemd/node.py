"""The questions and actions of the service's tests on the booted machine."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from safetensors.numpy import load_file

from tests.support.checkpoints import write_model
from tests.support.daemon import REPOSITORY
from tests.support.waiting import eventually
from tests.systemd.machine import ENVIRON, Machine

BLOCK: Final = 64 << 10
SHARD_BLOCKS: Final = 64
MODEL_BYTES: Final = 2 * SHARD_BLOCKS * BLOCK
MEMBER, STRANGER = "alice", "bob"
ROOMY: Final = 4 * MODEL_BYTES
TIGHT: Final = 16 * BLOCK
"""A limit under which a checkpoint goes through a window, so that a load needs the daemon to its
end."""
CONFIG: Final = "/etc/streamerd/streamerd.toml"
DROP_IN: Final = "/etc/systemd/system/streamerd.service.d/test.conf"
READY_S: Final = 20.0


class Node:
    """The machine with the package on it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.run = machine.run
        self.files_before: set[str] = set()

    def install(self, package: Path, *options: str) -> str:
        """Install or upgrade the package; returns apt's output."""
        self.machine.path("/root/streamerd.deb").write_bytes(package.read_bytes())
        apt = ("apt-get", "install", "--yes", "--no-install-recommends", *options)
        done = self.run("env", "DEBIAN_FRONTEND=noninteractive", *apt, "/root/streamerd.deb")
        return done.stdout + done.stderr

    def configure(self, *, memory_limit: int) -> None:
        """Write a configuration with small blocks, so that small checkpoints have many."""
        keys = f"memory_limit = {memory_limit}\nblock_size = {BLOCK}\nworkers = 2\nthreads = 2\n"
        self.machine.write(CONFIG, keys)

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self.run("systemctl", "show", "-P", name, "streamerd.service").stdout.strip()

    @property
    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    @property
    def is_active(self) -> bool:
        return self.show("ActiveState") == "active"

    def restarted(self, since_pid: int) -> bool:
        """Whether another process than that one serves now."""
        return self.main_pid not in (0, since_pid) and self.is_active

    def journal(self) -> str:
        """The lines that the unit and systemd logged about it in this boot."""
        return self.run("journalctl", "-b", "-u", "streamerd", "-o", "cat", "--no-pager").stdout

    def status(self) -> dict[str, Any]:
        """The status that a member of the group gets."""
        done = self.run("streamerctl", "status", "--json", user=MEMBER)
        body: dict[str, Any] = json.loads(done.stdout)
        return body

    def resident_bytes(self) -> int:
        shards = [shard for source in self.status()["sources"] for shard in source["shards"]]
        return sum(shard["resident_bytes"] for shard in shards)

    def processes(self) -> list[int]:
        """The pids of all processes in the unit, in the machine's own numbers."""
        tasks = self.run("cat", f"/sys/fs/cgroup/systemd{self.show('ControlGroup')}/cgroup.procs")
        return [int(pid) for pid in tasks.stdout.split()]

    def files_of_ours(self) -> set[str]:
        """Every file outside homes that carries this project's name, except logs and pages that man
        has formatted.
        """
        places = ("/etc", "/opt", "/usr", "/var", "/run", "/dev/shm")
        others = ("-not", "-path", "/var/log/*", "-not", "-path", "/var/cache/man/*")
        found = self.run("find", *places, "-name", "*streamer[dc]*", *others)
        return set(found.stdout.splitlines())

    def model(self, name: str) -> str:
        """Write a checkpoint of two shards of 4 MiB; returns its path inside the machine."""
        path = f"/srv/models/{name}"
        write_model(self.machine.path(path), shards=2, blocks=SHARD_BLOCKS, block_bytes=BLOCK)
        return path

    def digests(self, model: str) -> dict[str, str]:
        """The digests that a client has to get from the checkpoint."""
        found = {}
        for file in sorted(self.machine.path(model).iterdir()):
            for name, tensor in load_file(file).items():
                found[name] = sha256(tensor.tobytes()).hexdigest()
        return found


class Member:
    """A client process of a member of the group, in the machine; see `member.py`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        script = str(REPOSITORY / "tests" / "systemd" / "member.py")
        folders = ":".join(str(REPOSITORY / part) for part in ("client", "daemon"))
        command = ("env", f"PYTHONPATH={folders}", sys.executable, script, MEMBER)
        self._process = subprocess.Popen(
            node.machine.enter(*command),
            env=ENVIRON,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._expect("ready")
        except BaseException:
            self.close()
            raise

    def _expect(self, word: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(word), line
        return line.removeprefix(word).strip()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def begin(self, model: str) -> None:
        """Open the checkpoint and read one tensor."""
        self._say(f"load {model}")
        self._expect("begun")

    def finish(self, model: str) -> str:
        """Read the rest and check each byte; returns the route of the load."""
        self._say("go on")
        told = json.loads(self._expect("done"))
        assert told["digests"] == self._node.digests(model)
        way: str = told["mode"]
        return way

    def load(self, model: str) -> str:
        self.begin(model)
        return self.finish(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, which ends by itself when its input does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def started(node: Node, *, memory_limit: int) -> None:
    """Start the service afresh with this limit: with nothing in memory, no recorded failure and no
    drop-in.
    """
    node.run("systemctl", "stop", "streamerd")
    node.run("bash", "-c", f"rm -rf /dev/shm/* {DROP_IN}; systemctl daemon-reload")
    node.run("systemctl", "reset-failed", "streamerd", check=False)
    node.configure(memory_limit=memory_limit)
    node.run("systemctl", "start", "streamerd")
    eventually(lambda: node.is_active, READY_S)
