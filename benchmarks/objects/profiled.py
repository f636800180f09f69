"""A daemon whose workers tell what they spend their time on: takes the daemon's command line.

Functions of the worker are wrapped where they run, so that the daemon itself has no code for it.
The wraps cost about a microsecond a call. The daemon's process runs `main`, which has the process
that starts workers replaced by one that runs `spawner`; the workers are forks of that one.
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
"""The variable that names where each worker leaves a file."""
_SPAWNER: Final = "--spawner"


class _Recorder:
    """Sums up what each thread spends; each thread has sums of its own, so none waits here."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._all: list[Told] = []

    def told(self) -> Told:
        """This thread's own."""
        if not hasattr(self._own, "told"):
            self._own.told = Told()
            self._all.append(self._own.told)
        told: Told = self._own.told
        return told

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def measured(*arguments: Any, **named: Any) -> Any:
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                spent = Spent(1, time.perf_counter() - wall_s, time.thread_time() - cpu_s)
                self.told().phases.setdefault(name, Spent()).add(spent)

        return measured

    def fetched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` with its block noted."""

        def noted(carrier: Any, work: Any, job: Any) -> Any:
            began_s = time.monotonic()
            answer = call(carrier, work, job)
            block = Block(began_s, time.monotonic(), job.shard.uri, job.start, job.stop)
            self.told().blocks.append(block)
            return answer

        return noted

    def leave(self) -> None:
        """Write what all threads spent into this process's file."""
        whole = Told(process_cpu_s=time.process_time())
        for told in self._all:
            whole.blocks.extend(told.blocks)
            for name, spent in told.phases.items():
                whole.phases.setdefault(name, Spent()).add(spent)
        path = os.path.join(os.environ[DIRECTORY], str(os.getpid()))
        with open(f"{path}.part", "wb") as file:
            file.write(msgspec.json.encode(whole))
        os.rename(f"{path}.part", f"{path}.json")


class _Checksums:
    """In place of the module xxhash in a worker."""

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
    from streamerd.workers.in_worker import carrier, process

    recorder = _Recorder()
    fetch = recorder.fetched(carrier.Carrier._fetch_object)  # noqa: SLF001
    for owner, name, wrapped in (
        (carrier.Carrier, "_fetch_object", recorder.timed(FETCH, fetch)),
        (SlabFile, "reserve", recorder.timed(HUGE_PAGES, SlabFile.reserve)),
        (HttpConnection, "exchange", recorder.timed(HEAD, HttpConnection.exchange)),
        (Exchange, "readinto", recorder.timed(RECEIVE, Exchange.readinto)),
        (carrier, "xxhash", _Checksums(recorder)),
    ):
        setattr(owner, name, wrapped)
    serve = process.Server.serve

    def serve_and_tell(server: process.Server) -> None:
        try:
            serve(server)
        finally:
            recorder.leave()

    setattr(process.Server, "serve", serve_and_tell)  # noqa: B010  mypy lets no method be assigned


def spawner() -> None:
    """The process that starts workers, and each worker."""
    from streamerd.workers.in_worker import spawner as original

    _wrap_worker()
    original.main()


def main() -> int:
    """The daemon."""
    from streamerd import main as daemon
    from streamerd.workers.in_daemon import spawning

    command = [sys.executable, "-m", "benchmarks.objects.profiled", _SPAWNER, "--fd"]
    setattr(spawning, "spawner_command", lambda fd: [*command, str(fd)])  # noqa: B010  as above
    return daemon.main()


if __name__ == "__main__":
    if sys.argv[1:2] == [_SPAWNER]:
        del sys.argv[1]
        spawner()
    else:
        sys.exit(main())
