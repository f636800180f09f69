"""A real `vllm serve` on the CPU: starting it, asking it over HTTP, reading its loading times."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from streamer_client.contract.options import MODE_ENV, Mode
from streamer_vllm.demo.children import Child

RANKS: Final = 2
START_TIMEOUT_S: Final = 300.0
ANSWER_TIMEOUT_S: Final = 120.0
POLL_S: Final = 0.25
CPU_ENVIRONMENT: Final = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two ranks on one machine
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    MODE_ENV: Mode.REQUIRED.value,  # the demo is about the daemon, so there is no fallback
}
_LOADED: Final = re.compile(
    r"streamerd: rank=(?P<rank>\d+) event=loaded .* bytes=(?P<bytes>\d+) "
    r".*seconds=(?P<seconds>[\d.]+)"
)
"""The part of `session.LOADED_LINE` that is read here; a test compares the two."""


class RankLoad(NamedTuple):
    """The facts about one rank's weights in its log line."""

    rank: int
    loaded_bytes: int
    seconds: float


class Server:
    """A vLLM server that answers."""

    def __init__(self, child: Child, address: str) -> None:
        self._child = child
        self._address = address

    def complete(self, prompt: str, tokens: int = 16) -> str:
        """The model's greedy continuation of a prompt."""
        request = {"model": "demo", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        try:
            answer: dict[str, Any] = json.loads(_post(f"{self._address}/v1/completions", request))
            return str(answer["choices"][0]["text"])
        except (OSError, ValueError, LookupError) as error:
            raise self._child.failure(f"did not answer a completion ({error})") from error

    def loads(self) -> list[RankLoad]:
        """The loading of weights in each rank."""
        loads = rank_loads(self._child.log())
        if len(loads) != RANKS:
            raise self._child.failure(f"logged {len(loads)} loads through streamerd, not {RANKS}")
        return loads


def rank_loads(log: str) -> list[RankLoad]:
    """The loads that a log tells of, in the order of ranks. Pure."""
    found = (
        RankLoad(int(match["rank"]), int(match["bytes"]), float(match["seconds"]))
        for match in _LOADED.finditer(log)
    )
    return sorted({load.rank: load for load in found}.values())


def serve_arguments(model: str) -> list[str]:
    """The arguments of the README's vLLM line."""
    return [
        *("serve", model, "--load-format", "runai_streamer_sharded"),
        *("--tensor-parallel-size", str(RANKS)),
    ]


@contextlib.contextmanager
def running_server(model: str, socket_path: str, log_path: str) -> Iterator[Server]:
    """A vLLM server for the time of a `with` block; it answers when the block begins."""
    port = _free_port()
    command = [sys.executable, "-m", "streamer_vllm.demo.vllm_cli", *serve_arguments(model)]
    command += ["--enforce-eager", "--max-model-len", "256", "--served-model-name", "demo"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = CPU_ENVIRONMENT | {"STREAMERD_SOCKET": socket_path}
    address = f"http://127.0.0.1:{port}"
    with Child("vllm serve", command, environment, log_path) as child:
        _wait_healthy(child, address)
        yield Server(child, address)


def _wait_healthy(child: Child, address: str) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        time.sleep(POLL_S)
        child.check()
        with contextlib.suppress(OSError), _direct.open(f"{address}/health", timeout=5):
            return
    raise child.failure(f"does not answer after {START_TIMEOUT_S:.0f} s")


def _post(url: str, body: object) -> bytes:
    request = urllib.request.Request(  # noqa: S310  http on this machine
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with _direct.open(request, timeout=ANSWER_TIMEOUT_S) as answer:
        return bytes(answer.read())


# The server is on this machine, so no proxy of the environment is used.
_direct: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
