"""A daemon whose workers report where they spend their time; takes the daemon's command line.

Functions of the worker are wrapped at run time, so that the daemon itself has no code for this. The
wrappers cost about a microsecond a call. The daemon's process runs `main`, which replaces the
process that starts workers by one that runs `spawner`; the workers are forks of that one.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from benchmarks.objects.phases import (
    CHECKSUM,
    FETCH,
    HEAD,
    HUGE_PAGES,
    RECEIVE,
    Block,
    Spent,
    Told,
)

DIRECTORY: Final = "BENCH_PHASES_DIRECTORY"
"""The variable with the directory in which each worker writes a file."""
_SPAWNER: Final = "--spawner"


class _Recorder:
    """Writes a line for each block: the time that its thread spent since the line before.

    A worker is killed when its daemon ends, so it cannot write anything at its end. Each thread has
    its own sums, and an appended line is written at once, so no thread waits for another here.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self._fd = -1
        self._opening = threading.Lock()

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `call`, so that its times are summed up under this name."""

        @functools.wraps(call)
        def measured(*arguments: Any, **named: Any) -> Any:
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                spent = Spent(1, time.perf_counter() - wall_s, time.thread_time() - cpu_s)
                self._sums().setdefault(name, Spent()).add(spent)

        return measured

    def fetched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `call`, which fetches a block, so that it writes a line when it ends."""

        def noted(carrier: Any, work: Any, job: Any) -> Any:
            began_s = time.monotonic()
            answer = call(carrier, work, job)
            block = Block(began_s, time.monotonic(), job.shard.uri, job.start, job.stop)
            told = Told(self._sums(), [block], time.process_time())
            os.write(self._file(), msgspec.json.encode(told) + b"\n")
            self._sums().clear()
            return answer

        return noted

    def _sums(self) -> dict[str, Spent]:
        """The sums of the calling thread, which no other thread writes to."""
        if not hasattr(self._own, "sums"):
            self._own.sums = {}
        sums: dict[str, Spent] = self._own.sums
        return sums

    def _file(self) -> int:
        """The file of this process, as a worker is a fork of the recorder's maker."""
        with self._opening:
            if self._fd < 0:
                path = os.path.join(os.environ[DIRECTORY], str(os.getpid()))
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
            return self._fd


class _Checksums:
    """Replaces the module xxhash in a worker, so that checksums are timed."""

    def __init__(self, recorder: _Recorder) -> None:
        import xxhash

        self._made = xxhash.xxh3_64
        self._recorder = recorder

    def xxh3_64(self) -> Any:
        summing = self._made()

        class Timed:
            update = staticmethod(self._recorder.timed(CHECKSUM, summing.update))
            intdigest = staticmethod(summing.intdigest)

        return Timed


def _wrap_worker() -> None:
    from streamer_client.storage.http.transport.connection import Exchange, HttpConnection
    from streamerd.shm.slab_file import SlabFile
    from streamerd.workers.in_worker import carrier

    recorder = _Recorder()
    fetch = recorder.timed(FETCH, carrier.Carrier._fetch_object)  # noqa: SLF001
    for owner, name, wrapped in (
        (carrier.Carrier, "_fetch_object", recorder.fetched(fetch)),
        (SlabFile, "reserve", recorder.timed(HUGE_PAGES, SlabFile.reserve)),
        (HttpConnection, "exchange", recorder.timed(HEAD, HttpConnection.exchange)),
        (Exchange, "readinto", recorder.timed(RECEIVE, Exchange.readinto)),
        (carrier, "xxhash", _Checksums(recorder)),
    ):
        setattr(owner, name, wrapped)


def spawner() -> None:
    """Run the process that starts workers, and each worker, which is its fork."""
    from streamerd.workers.in_worker import spawner as original

    _wrap_worker()
    original.main()


def main() -> int:
    """Run the daemon."""
    from streamerd import main as daemon
    from streamerd.workers.in_daemon import spawning

    command = [sys.executable, "-m", "benchmarks.objects.profiled", _SPAWNER, "--fd"]
    setattr(spawning, "spawner_command", lambda fd: [*command, str(fd)])  # noqa: B010  mypy lets no function be assigned
    return daemon.main()


if __name__ == "__main__":
    if sys.argv[1:2] == [_SPAWNER]:
        del sys.argv[1]
        spawner()
    else:
        sys.exit(main())
