"""A process that has imported vLLM, and that forks a child for each program it is asked to run.

`python -m tests.vllm.warm_program` reads one request a line and answers each with one line. A child
takes over the environment, the folder and the output that the request names, then runs the module
as `python -m` would. So every program is a process of its own, and only the import of vLLM, which
takes longer than most of them, is made once for all.

Two more things take as long as that import, and a child does both differently from vLLM: vLLM for
the CPU starts a fresh interpreter for each rank, where a child forks ranks as vLLM does for GPUs,
and it looks at a model's class in a fresh interpreter, where a child looks at it by itself.
`Start.may_be_warm` says which starts of the tests leave all of this to vLLM.

This process starts no thread and calculates nothing, so it may be forked.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import runpy
import sys
import threading
import traceback
from typing import Any, Final, NoReturn

import msgspec

MODULES: Final = (
    "compressed_tensors",
    "vllm.entrypoints.llm",
    "vllm.lora.request",
    "vllm.model_executor.model_loader",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.qwen3",
    "vllm.model_executor.models.qwen3_moe",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.v1.engine.llm_engine",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
)
"""Modules that starts import. If a version of vLLM lacks one, that version has it under another
name, and its starts import it themselves."""


class Request(msgspec.Struct, frozen=True):
    """One program to run."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    """The whole environment of the child."""
    directory: str
    output: str
    """The file that gets stdout and stderr."""


class Ended(msgspec.Struct, frozen=True):
    """How a program ended."""

    returncode: int
    """The exit status in the form of `subprocess`: negative for a signal."""


def main() -> None:
    """Serve requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # vLLM logs to stdout, so the answers need another descriptor
    _import_vllm()
    gc.collect()
    # vLLM collects garbage several times during a start, and imported objects are never garbage.
    gc.freeze()
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"importing vLLM started {threading.enumerate()}"
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line, type=Request)
        child = os.fork()
        if not child:
            _run(request)
        _, status = os.waitpid(child, 0)
        told = msgspec.json.encode(Ended(os.waitstatus_to_exitcode(status)))
        answers.write(told + b"\n")
        answers.flush()


def _import_vllm() -> None:
    for name in MODULES:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    registry: Any = importlib.import_module("vllm.model_executor.models.registry")
    # By default, vLLM starts a new interpreter here to look at a model's class.
    registry._run_in_subprocess = lambda look: look()
    platform: Any = importlib.import_module("vllm.platforms").current_platform
    following = platform.check_and_update_config

    def then_fork(config: Any) -> None:
        following(config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    type(platform).check_and_update_config = staticmethod(then_fork)


def _become(request: Request) -> None:
    """Take over everything that a process gets from the process that starts it."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(request.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for opened, places in ((nothing, (0,)), (output, (1, 2))):
        for place in places:
            os.dup2(opened, place)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.directory)


def _run(request: Request) -> NoReturn:
    """Run the program in this child, and end as an interpreter does, but at once.

    An interpreter's own end looks at every object that was imported, which takes seconds.
    """
    returncode = 1
    try:
        _become(request)
        sys.argv = [request.module, *request.arguments]
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)
        returncode = 0
    except SystemExit as end:
        said: object = end.code or 0  # SystemExit may hold any object
        if isinstance(said, int):
            returncode = said
        else:
            sys.stderr.write(f"{said}\n")
    except BaseException:  # noqa: BLE001  as the interpreter tells it
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # joins threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(returncode)


if __name__ == "__main__":
    main()
