"""Running programs with vLLM from tests, in processes that need not import it first.

Owns the process of `warm_program.py` and the talk with it, and the other way: a fresh interpreter,
which imports vLLM and lets it start its ranks, as for users. `starts.py` says what runs which way.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tests.vllm.warm_program import Ended, Request

REPOSITORY: Final = Path(__file__).parents[2]
START_TIMEOUT_S: Final = 600
END_S: Final = 30


class Done(NamedTuple):
    """The outcome of a program."""

    returncode: int
    output: str
    """The program's stdout and stderr."""


def run_cold(
    module: str, *arguments: str, environment: Mapping[str, str], directory: Path = REPOSITORY
) -> Done:
    """Run `python -m MODULE ARGUMENTS` in a fresh interpreter, and return once it has ended."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=dict(environment),
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=START_TIMEOUT_S,
        check=False,
    )
    return Done(done.returncode, done.stdout)


class Warm:
    """A process that has imported vLLM, and programs that it runs one by one.

    Args:
        directory: for the programs' output and the process's own.
        environment: what vLLM finds while it is imported. Each program has its own environment.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = dict(environment)
        self._asked = 0
        self._start()

    def run(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str],
        directory: Path = REPOSITORY,
    ) -> Done:
        """Run `python -m MODULE ARGUMENTS`, and return once it has ended."""
        self._asked += 1
        output = self._directory / f"output-{self._asked}"
        request = Request(module, list(arguments), dict(environment), str(directory), str(output))
        try:
            ended = self._ask(request)
        except BaseException:
            # The next program must not get this program's answer.
            self._kill()
            self._start()
            raise
        return Done(ended.returncode, output.read_text(errors="replace"))

    def _ask(self, request: Request) -> Ended:
        with contextlib.suppress(BrokenPipeError):  # the end of the process is reported below
            self._asks.write(msgspec.json.encode(request) + b"\n")
            self._asks.flush()
        told, _, _ = select.select([self._answers], [], [], START_TIMEOUT_S)
        line = self._answers.readline() if told else b""
        if line:
            return msgspec.json.decode(line, type=Ended)
        logs = (path for path in (self._log, Path(request.output)) if path.exists())
        said = "".join(log.read_text(errors="replace") for log in logs)[-6000:]
        words = "the process that had imported vLLM has ended"
        if not told:
            words = f"{request.module} has not ended within {START_TIMEOUT_S} s"
        raise AssertionError(f"{words}:\n{said}")

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.vllm.warm_program"],
                env=self._environment,
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asks, self._answers = self._process.stdin, self._process.stdout

    @property
    def _log(self) -> Path:
        return self._directory / "warm.log"

    def end(self) -> None:
        """Let the process end, which it does when its stdin ends."""
        self._asks.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self._kill()

    def _kill(self) -> None:
        """Kill the process, and the program that it runs, if it has not ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # raised if a request was not read
            self._asks.close()
        self._answers.close()
