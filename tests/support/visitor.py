"""A client that runs as another user, or in other namespaces, as a test says.

`Visitor` is the test's end. It starts `python -m tests.support.visitor` behind a command that
changes user, namespaces or limits (`worlds.py`), and sends it one request at a time. The program
talks JSON lines on its standard streams and uses the client library as any program would. It
imports no torch, so that it starts within half a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.support.waiting import eventually

REPOSITORY: Final = Path(__file__).parents[2]
PROGRAM: Final = (sys.executable, "-m", "tests.support.visitor")

_ENDING: Final = ".safetensors"

Answer = dict[str, Any]


class Refusal(AssertionError):
    """The program met an error; `kind` is the name of its class."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Visitor:
    """The test's end of one client. A context manager that leaves no process.

    Args:
        before: a command that ends by executing the client, such as `setpriv`.
        environ: variables of the client besides the test's own.
    """

    def __init__(
        self, before: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [*before, *PROGRAM],
            cwd=REPOSITORY,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The pid of the program itself in this namespace, not of the command before it."""
        pid = self._process.pid
        while not _is_program(pid):
            pid = _children(pid)[0]
        return pid

    def begin(self, do: str, **options: object) -> None:
        """Send a request; `answer` waits for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **options}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Answer:
        """The program's answer to the request that `begin` sent.

        Raises:
            Refusal: the program met an error.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the client died"
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise Refusal(answer["error"], answer["text"])
        return answer

    def ask(self, do: str, **options: object) -> Answer:
        self.begin(do, **options)
        return self.answer()

    def refused(self, do: str, **options: object) -> Refusal:
        """The error that the program met; fails the test if it met none."""
        try:
            answer = self.ask(do, **options)
        except Refusal as refusal:
            return refusal
        raise AssertionError(f"{do} was not refused: {answer}")

    def load(self, socket: str | Path, source: str | Path, **options: object) -> Answer:
        """Connect, open, read everything and close; see `_Guest` for the answer."""
        mode = options.pop("mode", "required")
        self.ask("connect", socket=str(socket), mode=mode)
        opened = self.ask("open", source=str(source), **options)
        return {**opened, **self.ask("read"), **self.ask("close")}

    def kill(self) -> None:
        """Kill the program at once."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            if error is not None and self._process.poll() is None:
                os.kill(self.pid, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGKILL)
            self._process.wait()
            raise


def _children(pid: int) -> list[int]:
    try:
        told = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in told.split()]


def _is_program(pid: int) -> bool:
    """Whether a process is the program, not the command before it, which has its words too."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[0].decode() == PROGRAM[0]


def digest_of(path: Path) -> str:
    """The digest that a visitor answers for a file with these bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests_of(paths: Sequence[Path]) -> dict[str, str]:
    """The digests that a visitor answers for a checkpoint of these files."""
    return {path.name: digest_of(path) for path in paths}


# --- the program ----------------------------------------------------------------------------------


class _Reading:
    """One load that is read block after block."""

    def __init__(self, feed: Any) -> None:
        self.feed = feed
        self._left = self._blocks()
        self._hashes = [hashlib.sha256() for _ in feed.shards]
        order = [(index, 0, self._count(shard)) for index, shard in enumerate(feed.shards)]
        self._pass = feed.begin(_ranges(order))

    def _count(self, shard: Any) -> int:
        return -(-int(shard.size_bytes) // int(self.feed.block_bytes))

    def _blocks(self) -> Iterator[tuple[int, int]]:
        for index, shard in enumerate(self.feed.shards):
            for block in range(self._count(shard)):
                yield index, block

    def read(self, most: int) -> int:
        """Read up to so many blocks; return how many there were."""
        done = 0
        while done < most and (place := next(self._left, None)) is not None:
            self._read_block(*place)
            done += 1
        return done

    def _read_block(self, shard: int, block: int) -> None:
        start = block * self.feed.block_bytes
        stop = min(self.feed.shards[shard].size_bytes, start + self.feed.block_bytes)
        self.feed.wait(self._pass, shard, block)
        data = bytearray(stop - start)
        self.feed.read_into([memoryview(data)], shard, start)
        self.feed.consumed(self._pass, shard, block)
        self._hashes[shard].update(data)

    def end(self) -> dict[str, str]:
        """Finish the load; return the digest of each file by its name."""
        self.feed.settle()
        self.feed.end(self._pass)
        names = [os.path.basename(shard.uri) for shard in self.feed.shards]
        return {name: found.hexdigest() for name, found in zip(names, self._hashes, strict=True)}


def _ranges(places: Sequence[tuple[int, int, int]]) -> list[Any]:
    from streamer_client.contract.layout import BlockRange

    return [BlockRange(*place) for place in places]


class _Guest:
    """The requests that the program takes: each public method, with the message's fields."""

    def __init__(self) -> None:
        self._client: Any = None
        self._readings: dict[str, _Reading] = {}

    def connect(
        self, socket: str | None, mode: str = "required", label: str = "", reconnect_s: float = 5.0
    ) -> Answer:
        from streamer_client.launch import open_client

        self._client = open_client(mode, socket, label, reconnect_s)
        return {"socket": self._client.socket}

    def open(
        self, source: str, load: str = "a", hold: bool = True, memory_limit: int = -1
    ) -> Answer:
        """Open a folder's safetensors files, or one file."""
        files = [source] if source.endswith(_ENDING) else _files_of(source)
        feed = self._client.open_feed(files, hold=hold, memory_limit=memory_limit)
        self._readings[load] = _Reading(feed)
        return {"resident_bytes": feed.resident_bytes}

    def read(self, load: str = "a", most: int = sys.maxsize) -> Answer:
        """Read on; the answer has `digests` once everything was read."""
        reading = self._readings[load]
        blocks = reading.read(most)
        if blocks == most:
            return {"blocks": blocks}
        return {"blocks": blocks, "digests": reading.end(), "mode": reading.feed.route}

    def close(self, load: str = "a") -> Answer:
        self._readings.pop(load).feed.close()
        return {}

    def leave(self) -> Answer:
        self._client.close()
        return {}

    def status(self) -> Answer:
        found: Answer = self._client.admin.status()
        return found

    def evict(self, source: str = "") -> Answer:
        """Evict a source, or all that nobody uses."""
        return {"detail": self._client.admin.evict(*([source] if source else []))}

    def pin(self, source: str) -> Answer:
        self._client.admin.pin(source)
        return {}

    def unpin(self, source: str) -> Answer:
        self._client.admin.unpin(source)
        return {}

    def prefetch(self, source: str) -> Answer:
        ids, total_bytes = self._client.admin.prefetch(source)
        return {"ids": ids, "total_bytes": total_bytes}

    def pass_by_hand(self, socket: str, path: str, flags: int) -> Answer:
        """Open a path with any flags, hand the descriptor over, and ask for a load of it."""
        from tests.support.descriptor_peer import DescriptorPeer

        descriptor = os.open(path, flags)
        try:
            with DescriptorPeer(socket) as peer:
                return {"answer": peer.open_of(path, [descriptor])}
        finally:
            os.close(descriptor)

    def fork(self) -> Answer:
        """Leave a child that does nothing until somebody ends it; return its pid."""
        child = os.fork()
        if child == 0:
            os.close(0)
            os.close(1)
            signal.pause()
            os._exit(0)
        return {"pid": child}

    def pry(self) -> Answer:
        """Try forbidden ways to get at slabs; return those that worked."""
        slabs = [fd for fd in map(int, os.listdir("/proc/self/fd")) if "streamerd." in _target(fd)]
        broken = [way for fd in slabs for way, attempt in _WAYS_IN.items() if _works(attempt, fd)]
        names = [name for name in os.listdir("/dev/shm") if name.startswith("streamerd.")]
        for name in names:
            if _works(lambda _: os.close(os.open(f"/dev/shm/{name}", os.O_RDONLY)), 0):  # noqa: B023
                broken.append("read by name")
            if _works(lambda _: os.unlink(f"/dev/shm/{name}"), 0):  # noqa: B023
                broken.append("unlink by name")
        return {"descriptors": len(slabs), "names": len(names), "broken": broken}


def _files_of(folder: str) -> list[str]:
    names = sorted(name for name in os.listdir(folder) if name.endswith(_ENDING))
    return [os.path.join(folder, name) for name in names]


def _target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # the listing's own descriptor is closed by now
        return ""


def _works(attempt: Callable[[int], object], fd: int) -> bool:
    try:
        attempt(fd)
    except (OSError, ValueError):
        return False
    return True


_WAYS_IN: Final[Mapping[str, Callable[[int], object]]] = {
    "reopen for writing": lambda fd: os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR)),
    "map for writing": lambda fd: mmap.mmap(fd, 4096, access=mmap.ACCESS_WRITE).close(),
    "write": lambda fd: os.pwrite(fd, b"\0", 0),
    "truncate": lambda fd: os.ftruncate(fd, 0),
    "chmod": lambda fd: os.fchmod(fd, 0o666),
    "punch": lambda fd: os.posix_fallocate(fd, 0, 1),
}


def main() -> None:
    """Answer requests until the standard input ends."""
    guest = _Guest()
    for line in sys.stdin:
        options = json.loads(line)
        try:
            answer = getattr(guest, options.pop("do"))(**options)
        except Exception as error:  # noqa: BLE001  told to the test, which judges it
            answer = {"error": type(error).__name__, "text": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def kill_and_wait(pid: int) -> None:
    """End a process that is no child of this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: _has_ended(pid))


def _has_ended(pid: int) -> bool:
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    # A zombie has ended, though its parent may not have reaped it.
    return told.rpartition(")")[2].split()[0] == "Z"


if __name__ == "__main__":
    main()
