"""Each rank's parameters right after loading are bit for bit those that the stock loader leaves.

On the CPU build two pipeline stages load and then fail in the first step, whatever the loader. So
these starts end once the weights are loaded, and the probe writes their digests.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.daemon import DaemonProcess
from tests.vllm.starts import Start, Starts
from tests.vllm.test_same_answers import through

Model = Callable[[str], str]


def test_two_stages_unsharded(model: Model, starts: Starts, daemon: DaemonProcess) -> None:
    answer = starts(
        Start(
            model("llama"),
            "runai_streamer",
            action="load",
            pipeline_parallel_size=2,
            environment=through(daemon),
        )
    )
    reference = starts(Start(model("llama"), action="load", pipeline_parallel_size=2))
    assert set(reference.digests) == {"pp0-tp0", "pp1-tp0"}
    assert reference.digests["pp0-tp0"].keys() != reference.digests["pp1-tp0"].keys()
    assert answer.digests == reference.digests


def test_two_stages_sharded(
    pipeline_shards: str, model: Model, starts: Starts, daemon: DaemonProcess
) -> None:
    answer = starts(
        Start(
            pipeline_shards,
            "runai_streamer_sharded",
            action="load",
            pipeline_parallel_size=2,
            environment=through(daemon),
        )
    )
    reference = starts(Start(model("llama"), action="load", pipeline_parallel_size=2))
    assert answer.digests == reference.digests


def test_what_vllm_itself_saves(
    own_writers_shards: str, model: Model, starts: Starts, daemon: DaemonProcess
) -> None:
    answer = starts(
        Start(
            own_writers_shards,
            "runai_streamer_sharded",
            action="load",
            environment=through(daemon),
        )
    )
    assert answer.digests == starts(Start(model("llama"), action="load", save=True)).digests


def test_a_hugging_face_id_in_the_cache_without_a_daemon(
    model: Model, starts: Starts, tmp_path: Path
) -> None:
    """The cache holds links to blobs, and one file that is not in the index."""
    revision = "0" * 40
    repository = tmp_path / "hub" / "models--house--llama"
    snapshot, blobs = repository / "snapshots" / revision, repository / "blobs"
    for directory in (snapshot, blobs, repository / "refs"):
        directory.mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    for file in Path(model("llama")).iterdir():
        shutil.copyfile(file, blobs / file.name)
        (snapshot / file.name).symlink_to(blobs / file.name)
    (snapshot / "consolidated.safetensors").symlink_to(next(blobs.glob("*.safetensors")))
    answer = starts(
        Start(
            "house/llama",
            "runai_streamer",
            action="load",
            environment=(("HF_HOME", str(tmp_path)), ("STREAMERD_MODE", "direct")),
        )
    )
    assert answer.digests == starts(Start(model("llama"), action="load", save=True)).digests
    assert "via=direct socket=-" in answer.output
    assert "Loading safetensors using streamerd via=direct: 100% Completed" in answer.output


def test_no_shards_for_this_rank(model: Model, starts: Starts, daemon: DaemonProcess) -> None:
    answer = starts.attempt(
        Start(
            model("llama"),
            "runai_streamer_sharded",
            action="load",
            environment=through(daemon),
        )
    )
    assert answer.returncode != 0
    assert "model-rank-0-part-*.safetensors" in answer.output
    assert "model-00001-of-00004.safetensors" in answer.output
