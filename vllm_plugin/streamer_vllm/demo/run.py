"""The demo: vLLM loads a sharded model twice; the second time nothing is read from storage.

Owns the order of the steps and the text about them. Everything runs as a user would run it:
`streamerctl shard`, `streamerd`, `vllm serve`, an HTTP completion, `streamerctl status`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from streamer_vllm.demo.children import Child, DemoFailed
from streamer_vllm.demo.daemon import DemoDaemon, running_daemon, streamerctl_command
from streamer_vllm.demo.server import RANKS, RankLoad, running_server, serve_arguments

STEPS: Final = 6
PROMPT: Final = "The quick brown fox"
SHARD_TIMEOUT_S: Final = 600.0
_SMALL_NEEDS_BYTES: Final = 1 << 30


class Start(NamedTuple):
    """One start of vLLM."""

    loads: list[RankLoad]
    read_bytes: int
    completion: str

    @property
    def loading_s(self) -> float:
        """Seconds until the slowest rank has its weights, and so all weights are loaded."""
        return max(load.seconds for load in self.loads)


class Story:
    """The text on the terminal."""

    def __init__(self) -> None:
        self._number = 0

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Announce a step, and say how long it took."""
        self._number += 1
        self.tell(f"\n[{self._number}/{STEPS}] {what}")
        began_s = time.monotonic()
        yield
        self.tell(f"      done in {time.monotonic() - began_s:.1f} s")

    def tell(self, text: str) -> None:
        """Print one or more lines."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def run(directory: str) -> None:
    """Run all steps in `directory`, which keeps the model and the logs.

    Raises:
        DemoFailed: a step did not work.
    """
    story = Story()
    model, sharded = (os.path.join(directory, name) for name in ("model", "sharded"))
    for stale in (model, sharded):
        shutil.rmtree(stale, ignore_errors=True)
    os.makedirs(directory, exist_ok=True)
    story.tell("streamerd demo: vLLM loads a sharded model twice, on this machine's CPU")
    with story.step("building a small Llama-like model"):
        _build(model, directory)
    with story.step(f"streamerctl shard {model} {sharded} --tensor-parallel-size {RANKS}"):
        _shard(model, sharded, directory)
        story.tell(_listing(sharded))
    # The path must be short: that of a unix socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="streamerd-demo-") as private:
        _load_twice(story, sharded, os.path.join(private, "control.sock"), directory)


def _load_twice(story: Story, sharded: str, socket_path: str, directory: str) -> None:
    with ExitStack() as stack:
        with story.step(f"streamerd --socket {socket_path}"):
            log_path = os.path.join(directory, "streamerd.log")
            daemon = stack.enter_context(running_daemon(socket_path, log_path))
        _drop_page_cache(sharded)
        with story.step(f"first start, nothing cached: vllm {' '.join(serve_arguments(sharded))}"):
            first = _start(story, daemon, sharded, os.path.join(directory, "vllm-1.log"))
        with story.step("streamerctl status"):
            story.tell(_indented(daemon.streamerctl("status")))
        with story.step("second start: the same command"):
            second = _start(story, daemon, sharded, os.path.join(directory, "vllm-2.log"))
    story.tell(f"\n{comparison(first, second)}")
    _judge(first, second)


def _build(model: str, directory: str) -> None:
    stat = os.statvfs("/dev/shm")
    size = "small" if stat.f_bavail * stat.f_frsize >= _SMALL_NEEDS_BYTES else "tiny"
    command = [sys.executable, "-m", "streamer_vllm.demo.model", model, "--size", size]
    with Child("the model builder", command, {}, os.path.join(directory, "model.log")) as child:
        child.wait(SHARD_TIMEOUT_S)


def _shard(model: str, sharded: str, directory: str) -> None:
    command = [*streamerctl_command(), "shard", model, sharded]
    command += ["--tensor-parallel-size", str(RANKS)]
    with Child("streamerctl shard", command, {}, os.path.join(directory, "shard.log")) as child:
        child.wait(SHARD_TIMEOUT_S)


def _weight_files(sharded: str) -> list[str]:
    names = sorted(name for name in os.listdir(sharded) if name.endswith(".safetensors"))
    return [os.path.join(sharded, name) for name in names]


def _listing(sharded: str) -> str:
    return "\n".join(
        f"      {os.path.basename(path)}  {_megabytes(os.path.getsize(path))}"
        for path in _weight_files(sharded)
    )


def _drop_page_cache(sharded: str) -> None:
    for path in _weight_files(sharded):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)  # otherwise dirty pages would stay
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def _start(story: Story, daemon: DemoDaemon, sharded: str, log_path: str) -> Start:
    story.tell(f"      vLLM takes a minute to start on CPU; its log: {log_path}")
    before_bytes = daemon.source_read_bytes()
    with running_server(sharded, daemon.socket_path, log_path) as server:
        completion = server.complete(PROMPT)
        loads = server.loads()
    start = Start(loads, daemon.source_read_bytes() - before_bytes, completion)
    story.tell(_told(start))
    return start


def _told(start: Start) -> str:
    ranks = [
        f"      rank {load.rank}: {_megabytes(load.loaded_bytes)} in {load.seconds:.3f} s"
        for load in start.loads
    ]
    return "\n".join(
        [
            *ranks,
            f"      read from storage: {start.read_bytes:,} bytes",
            f"      completion of {PROMPT!r}: {start.completion!r}",
        ]
    )


def comparison(first: Start, second: Start) -> str:
    """A small table of both starts. Pure."""
    rows = [
        ("", "first start", "second start"),
        ("weights loaded in", f"{first.loading_s:.3f} s", f"{second.loading_s:.3f} s"),
        ("read from storage", f"{first.read_bytes:,} B", f"{second.read_bytes:,} B"),
    ]
    return "\n".join(f"      {name:<18}  {one:>16}  {two:>16}" for name, one, two in rows)


def _judge(first: Start, second: Start) -> None:
    if second.read_bytes:
        raise DemoFailed(
            f"the second start read {second.read_bytes} bytes from storage where 0 were expected; "
            "is /dev/shm large enough for the model (df -h /dev/shm)?"
        )
    if first.completion != second.completion:
        raise DemoFailed(f"the answers differ: {first.completion!r} and then {second.completion!r}")


def _indented(text: str) -> str:
    return "\n".join(f"      {line}".rstrip() for line in text.splitlines())


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
