"""One model over two nodes: each node's rank takes its weights from its node's daemon.

There are two network namespaces with a daemon each. vLLM is started as its documentation says for
several nodes without Ray, with the same arguments on both except for the node's number.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemons
from tests.support.networked import NetworkedNode, needs_a_network, two_nodes
from tests.support.visitor import REPOSITORY
from tests.support.waiting import eventually
from tests.vllm.starts import HERE, Start, Starts, clean_environment
from tests.vllm.test_same_answers import LOADED, Model
from tests.vllm.warm import START_TIMEOUT_S

pytestmark = [needs_a_network(), pytest.mark.full]

RANKS = 2
PORT = 29501
ENDS_WITHIN_S = 30.0


def test_each_node_reads_its_ranks_files_once_and_the_answer_is_that_of_one_node(
    model: Model, default_shards: str, starts: Starts, daemon_maker: Daemons, tmp_path: Path
) -> None:
    at = daemon_maker.directory / "run"
    at.mkdir()
    with two_nodes(daemon_maker.directory, at) as nodes:
        daemons = [
            daemon_maker.make(
                "--memory-limit=128MiB", socket_path=node.own / "s", before=node.enter()
            ).start()
            for node in nodes
        ]
        told = _answer(nodes, default_shards, at / "s", tmp_path)
        reads = [daemon.totals()["source_read_bytes"] for daemon in daemons]
        held = [set(daemon.shards()) for daemon in daemons]
        logs = [daemon.log for daemon in daemons]
        for daemon in daemons:
            daemon.stop()
    files = [f"{default_shards}/model-rank-{rank}-part-" for rank in range(RANKS)]
    for number, prefix in enumerate(files):
        assert {uri[: len(prefix)] for uri in held[number]} == {prefix}, logs[number]
        assert reads[number] == sum(os.stat(uri).st_size for uri in held[number])
    reference = starts(Start(model("llama"), tensor_parallel_size=RANKS))
    assert told["tokens"] == reference.tokens
    assert told["prompt_logprobs"] == reference.prompt_logprobs


def _answer(
    nodes: list[NetworkedNode], source: str, socket: Path, directory: Path
) -> dict[str, Any]:
    """The first node's answer, while the second node takes part."""
    arguments = Start(source, "runai_streamer_sharded", tensor_parallel_size=RANKS).arguments() | {
        "nnodes": len(nodes),
        "master_addr": nodes[0].address,
        "master_port": PORT,
    }
    job, answer = directory / "job.json", directory / "answer.json"
    asked = {"action": "generate", "adapter": "", "reload_paths": ()}
    job.write_text(json.dumps({**asked, "arguments": {**arguments, "node_rank": 0}}))
    first = [str(HERE / "vllm_job.py"), str(job), str(answer)]
    second = ["-m", "streamer_vllm.demo.vllm_cli", "serve", arguments.pop("model")]
    second += ["--headless", "--node-rank", "1", *_flags(arguments)]
    logs = [directory / "first.log", directory / "second.log"]
    with (
        _running(nodes[0], first, socket, logs[0]) as answering,
        _running(nodes[1], second, socket, logs[1]) as helping,
    ):
        with contextlib.suppress(AssertionError):
            # A failure is reported below, with the logs of the nodes.
            eventually(lambda: {answering.poll(), helping.poll()} != {None}, START_TIMEOUT_S)
            eventually(lambda: answering.poll() is not None, ENDS_WITHIN_S)
        said = [log.read_text() for log in logs]
        ended = answering.poll(), helping.poll()
    told = "".join(f"\n--- node {node} {text[-4000:]}" for node, text in enumerate(said))
    assert ended[0] == 0, f"exit codes {ended}, where None had not ended:{told}"
    for rank, text in enumerate(said):
        ((number, *_, used),) = LOADED.findall(text)
        assert (int(number), used) == (rank, str(socket))
    answered: dict[str, Any] = json.loads(answer.read_text())
    return answered


@contextmanager
def _running(
    node: NetworkedNode, words: Sequence[str], socket: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python with these arguments on a node, and end it afterwards."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*node.enter(), sys.executable, *words],
            env=_environment(node, socket),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        match value:
            case True:
                words.append(flag)
            case {}:
                words += [flag, json.dumps(value)]
            case _:
                words += [flag, str(value)]
    return words


def _environment(node: NetworkedNode, socket: Path) -> dict[str, str]:
    return clean_environment() | {
        "STREAMERD_MODE": "required",
        "STREAMERD_SOCKET": str(socket),
        "VLLM_HOST_IP": node.address,
        "GLOO_SOCKET_IFNAME": node.interface,
    }
