"""`s3://` models on two ranks: config, tokenizer and weights come from the store, and the tokens
are as from disk.

Run:ai's package cannot be imported where these tests run (`starts.py`); vLLM finds this project's
modules in its place.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.guarded_store import GuardedStore, Seen, guarded_store
from tests.vllm.conftest import checkpoint_bytes
from tests.vllm.starts import Answer, Start, Starts
from tests.vllm.test_same_answers import (
    ISSUE_OPTIONS,
    Environment,
    assert_loaded_through,
    assert_same,
    through,
)

Model = Callable[[str], str]

FOLDER = "ranks"
PATTERN = f"{FOLDER}/model-rank-{{rank}}-part-{{part}}.safetensors"


@pytest.fixture(scope="module")
def store() -> Iterator[GuardedStore]:
    with guarded_store() as server:
        yield server


@pytest.fixture
def user(store: GuardedStore, tmp_path: Path) -> Environment:
    """The environment of a user of the store, with a cache of the test's own."""
    return (*store.environ().items(), ("VLLM_ASSETS_CACHE", str(tmp_path / "assets")))


@pytest.fixture(scope="module")
def unsharded(store: GuardedStore, model: Model, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Llama model, and beside it a copy of some weights that its index does not name."""
    directory = tmp_path_factory.mktemp("objects") / "llama"
    shutil.copytree(model("llama"), directory)
    assert (directory / "model.safetensors.index.json").exists()
    weights = next(directory.glob("*.safetensors"))
    shutil.copyfile(weights, directory / "consolidated.safetensors")
    store.put_model(directory, "s3://models/team/llama")
    return "s3://models/team/llama"


@pytest.fixture(scope="module")
def shards(
    unsharded: str,
    store: GuardedStore,
    starts: Starts,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The model for two ranks, made from the store, with the shards in a folder of their own."""
    out = tmp_path_factory.mktemp("objects") / "sharded"
    done = starts.run(
        *("streamer_vllm.sharding.command", unsharded, str(out)),
        *("--tensor-parallel-size", "2", "--pattern", PATTERN, "--max-file-size", "1MiB"),
        **store.environ(),
        STREAMERD_MODE="direct",
    )
    assert done.returncode == 0, done.output[-6000:]
    return out


@pytest.fixture(scope="module")
def sharded(store: GuardedStore, shards: Path) -> str:
    store.put_model(shards, "s3://models/team/sharded")
    return "s3://models/team/sharded"


def assert_each_byte_crossed_once(gets: list[Seen], size_bytes: int) -> None:
    """Check that the store got ranged GETs of whole blocks, none twice, that add up to the
    checkpoint.
    """
    assert len({(get.path, get.range) for get in gets}) == len(gets)
    assert max(get.size_bytes for get in gets) == BLOCK
    assert sum(get.size_bytes for get in gets) == size_bytes


def assert_config_came_from(store: GuardedStore, answer: Answer, prefix: str) -> None:
    pulled = {get.path.rpartition("/")[2] for get in store.gets(prefix)}
    assert {"config.json", "tokenizer.json"} <= pulled
    assert "event=pulled" not in answer.output, "the client's INFO is asked for, not given"


def test_unsharded(
    unsharded: str,
    model: Model,
    starts: Starts,
    daemon: DaemonProcess,
    store: GuardedStore,
    user: Environment,
) -> None:
    store.seen.clear()
    answer = starts(
        Start(
            unsharded,
            "runai_streamer",
            tensor_parallel_size=2,
            extra=ISSUE_OPTIONS,
            environment=(*through(daemon), *user),
            cold=True,
        )
    )
    assert_same(answer, starts(Start(model("llama"), tensor_parallel_size=2)))
    assert_loaded_through(daemon.socket, answer, ranks=2)
    assert_config_came_from(store, answer, "team/llama")
    gets = [get for get in store.gets("team/llama") if get.path.endswith(".safetensors")]
    assert_each_byte_crossed_once(gets, checkpoint_bytes(model("llama")))
    assert not store.gets("consolidated")


def test_sharded(
    sharded: str,
    shards: Path,
    model: Model,
    starts: Starts,
    daemon: DaemonProcess,
    store: GuardedStore,
    user: Environment,
) -> None:
    store.seen.clear()
    answer = starts(
        Start(
            f"{sharded}/",
            "runai_streamer_sharded",
            tensor_parallel_size=2,
            extra=(*ISSUE_OPTIONS, ("pattern", PATTERN), ("distributed", True)),
            environment=(*through(daemon), *user, ("RUNAI_STREAMER_LOG_TO_STDERR", "1")),
        )
    )
    assert_same(answer, starts(Start(model("llama"), tensor_parallel_size=2)))
    assert_loaded_through(daemon.socket, answer, ranks=2)
    assert "event=pulled source=s3://models/team/sharded/ files=" in answer.output
    gets = store.gets(f"team/sharded/{FOLDER}/")
    assert_each_byte_crossed_once(gets, checkpoint_bytes(str(shards / FOLDER)))


def test_shards_made_from_the_store_come_with_the_config(shards: Path, model: Model) -> None:
    names = {path.name for path in Path(model("llama")).iterdir()}
    expected = {name for name in names if "safetensors" not in name}
    assert {path.name for path in shards.iterdir()} == expected | {FOLDER, "streamerd.json"}


THEIRS = """
def refuse(*args, **kwargs):
    raise AssertionError("Run:ai's own package was asked")

pull_files = list_safetensors = refuse

class SafetensorsStreamer:
    __init__ = refuse
"""


def test_ours_are_used_where_the_package_is_installed_too(
    unsharded: str,
    model: Model,
    starts: Starts,
    store: GuardedStore,
    user: Environment,
    tmp_path: Path,
) -> None:
    """The same holds without a daemon, where each rank reads for itself."""
    (tmp_path / "runai_model_streamer.py").write_text(THEIRS)
    answer = starts(
        Start(
            unsharded,
            "runai_streamer",
            action="load",
            environment=(*user, ("STREAMERD_MODE", "direct")),
            import_path=str(tmp_path),
        )
    )
    assert answer.digests == starts(Start(model("llama"))).digests
    assert "via=direct" in answer.output


def test_vllms_own_loader_streams_with_ours(
    unsharded: str,
    model: Model,
    starts: Starts,
    user: Environment,
) -> None:
    """`mode` = `off` leaves vLLM's loader in place, which could not stream without the package."""
    answer = starts(
        Start(
            unsharded,
            "runai_streamer",
            action="load",
            extra=(("mode", "off"),),
            environment=(*user, ("STREAMERD_MODE", "direct")),
        )
    )
    assert answer.digests == starts(Start(model("llama"))).digests
    assert "Loading safetensors using Runai Model Streamer: 100% Completed" in answer.output
    assert "event=loaded" not in answer.output


@pytest.mark.usefixtures("unsharded")  # this fixture makes the bucket
def test_a_model_that_is_not_there_is_told(starts: Starts, user: Environment) -> None:
    answer = starts.attempt(
        Start("s3://models/team/lama", "runai_streamer", action="load", environment=user)
    )
    assert answer.returncode != 0
    assert (
        "s3://models/team/lama/: nothing lies under it; check the name and the prefix"
        in answer.output
    )
