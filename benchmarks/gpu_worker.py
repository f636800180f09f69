"""A process with a CUDA context and one loader; it loads when told and reports the time."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from benchmarks.gpu_files import Wanted, differing
from benchmarks.gpu_loaders import LOADERS

context = multiprocessing.get_context("spawn")
CEILING_BYTES = 8 << 30


class Took(msgspec.Struct):
    """One load. Times are of CLOCK_MONOTONIC."""

    start_s: float
    stop_s: float
    first_s: float
    """The time at which the first tensor was there; 0 if that is not known."""
    wrong: list[str]
    """Tensors that differ from the file; also empty if nobody compared them."""
    error: str = ""

    @property
    def seconds(self) -> float:
        return self.stop_s - self.start_s


class Worker:
    """The benchmark's handle on the process."""

    def __init__(self, loader: str, socket: str, device: int, ranks: int = 1) -> None:
        self._ours, theirs = context.Pipe()
        changed = {
            **LOADERS[loader][1],
            "LOCAL_WORLD_SIZE": str(ranks),
            "RUNAI_STREAMER_LOG_LEVEL": "ERROR",
        }
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)  # inherited by the process that is started
        try:
            self._process = context.Process(target=_live, args=(theirs, loader, socket, device))
            self._process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        theirs.close()

    def ask(self, paths: list[str], wanted: list[list[Wanted]], *, verify: bool) -> None:
        """Let the process prepare a load, which `go` starts."""
        self._ours.send((paths, wanted, verify))
        self._ours.recv()

    def go(self) -> None:
        self._ours.send("go")

    def answer(self) -> Took:
        took: Took = self._ours.recv()
        return took

    def load(self, paths: list[str], wanted: list[list[Wanted]], *, verify: bool) -> Took:
        self.ask(paths, wanted, verify=verify)
        self.go()
        return self.answer()

    def ceiling(self) -> float:
        """Bytes a second of plain pinned copies to the device."""
        self._ours.send("ceiling")
        rate: float = self._ours.recv()
        return rate

    def forget(self) -> None:
        """Let the process give its GPU memory back."""
        self._ours.send("forget")
        self._ours.recv()

    def stop(self) -> None:
        self._ours.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _live(pipe: Connection, name: str, socket: str, number: int) -> None:
    import torch

    device = f"cuda:{number}"
    torch.cuda.set_device(number)
    torch.empty(1 << 20, device=device).fill_(1)
    torch.cuda.synchronize()
    loader: Any = None
    kept: dict[str, torch.Tensor] = {}
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        if asked == "ceiling":
            pipe.send(_ceiling(device))
        elif asked == "forget":
            kept = {}
            gc.collect()
            torch.cuda.empty_cache()
            pipe.send("done")
        else:
            took, loader, kept = _load(pipe, asked, loader, kept, name, socket, device)
            pipe.send(took)


def _load(
    pipe: Connection, asked: Any, loader: Any, kept: Any, name: str, socket: str, device: str
) -> tuple[Took, Any, Any]:
    """Load once on request; a loader's failure is a result."""
    paths, wanted, verify = asked
    told = False
    try:
        loader = loader or LOADERS[name][0](socket, device)
        kept = _prepared(loader, kept, wanted, device)
        pipe.send("ready")
        told = True
        pipe.recv()
        took, kept = _timed(loader, paths, kept)
        if verify:
            took.wrong = differing(kept, wanted)
        return took, loader, kept
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        if not told:
            pipe.send("ready")
            pipe.recv()
        return Took(0, 0, 0, [], f"{type(error).__name__}: {error}"), loader, {}


def _prepared(loader: Any, kept: Any, wanted: list[list[Wanted]], device: str) -> Any:
    """Targets with wrong bytes for loaders that fill them; None for the others."""
    import torch

    if not loader.fills:
        kept.clear()
        gc.collect()
        return kept
    names = {one.name: one.shape for file in wanted for one in file}
    if kept.keys() != names.keys():
        kept = {
            name: torch.empty(shape, dtype=torch.bfloat16, device=device)
            for name, shape in names.items()
        }
    for tensor in kept.values():
        tensor.fill_(float("nan"))
    torch.cuda.synchronize()
    return kept


def _timed(loader: Any, paths: list[str], targets: Any) -> tuple[Took, Any]:
    import torch

    loader.first_s = 0.0
    gc.collect()
    start_s = time.monotonic()
    kept = loader.load(paths, targets)
    torch.cuda.synchronize()
    return Took(start_s, time.monotonic(), loader.first_s, []), kept


def _ceiling(device: str) -> float:
    """The best rate of a few passes with copies of 64 MiB."""
    import torch

    part = 64 << 20
    source = torch.empty(4 * part, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(4 * part, dtype=torch.uint8, device=device)
    best = 0.0
    for _ in range(4):
        torch.cuda.synchronize()
        start_s = time.monotonic()
        for place in range(CEILING_BYTES // part):
            at = place % 4 * part
            target[at : at + part].copy_(source[at : at + part], non_blocking=True)
        torch.cuda.synchronize()
        best = max(best, CEILING_BYTES / (time.monotonic() - start_s))
    return best
