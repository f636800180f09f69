"""Functions of SGLang and vLLM that call Run:ai's package run against `streamer_client.runai` over
an S3 server.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import posixpath
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from streamer_client import runai
from streamer_client.runai.safetensors_streamer import safetensors_pytorch
from tests.support.checkpoints import write_model
from tests.support.guarded_store import GuardedStore, guarded_store
from tests.support.runai_engines import SGLANG, TPU, VLLM, engine_missing, taken

URI = "s3://models/llama"
BAR_FORMAT = "{desc}"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, torch.Tensor]]:
    """A model in a store, with `streamer_client.runai` importable under Run:ai's name."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "RUNAI_"))]:
        monkeypatch.delenv(name)
    paths = write_model(tmp_path / "m", 2, 2)
    stored = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    index = {name: path.name for path in paths for name in load_file(path)}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "m" / "config.json").write_text("{}")
    theirs = "runai_model_streamer"
    monkeypatch.setitem(sys.modules, theirs, runai)
    monkeypatch.setitem(sys.modules, f"{theirs}.safetensors_streamer", runai.safetensors_streamer)
    monkeypatch.setitem(
        sys.modules, f"{theirs}.safetensors_streamer.safetensors_pytorch", safetensors_pytorch
    )
    with guarded_store() as store:
        put(store, tmp_path / "m")
        for name, value in store.environ().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("STREAMERD_MODE", "direct")
        yield stored


def put(store: GuardedStore, directory: Path) -> None:
    store.put_model(directory, URI)


def same(found: Iterator[tuple[str, torch.Tensor]], stored: dict[str, torch.Tensor]) -> bool:
    tensors = dict(found)
    return tensors.keys() == stored.keys() and all(
        torch.equal(tensor, stored[name]) for name, tensor in tensors.items()
    )


def sglang(member: str, *names: str, **more: Any) -> dict[str, Any]:
    if missing := engine_missing(SGLANG):
        pytest.skip(missing)
    namespace: dict[str, Any] = {
        "BAR_FORMAT": BAR_FORMAT,
        "RUNAI_STREAMER_TENSOR_ATTR": "_sglang_runai_streamer_tensor",
        "SUPPORTED_SCHEMES": ["s3://", "gs://", "az://"],
        "hashlib": hashlib,
        "json": json,
        "is_cuda_alike": lambda: False,
        "logger": logging.getLogger("sglang"),
        "os": os,
        "torch": torch,
        "tqdm": tqdm,
    } | more
    taken(SGLANG, f"sglang/{member}", namespace, *names)
    return namespace


def test_sglang_streams(model: dict[str, torch.Tensor]) -> None:
    utils = sglang("srt/utils/runai_utils.py", "list_safetensors", "is_runai_obj_uri")
    weights = sglang("srt/model_loader/weight_utils.py", "runai_safetensors_weights_iterator")
    assert utils["is_runai_obj_uri"](URI)
    files = utils["list_safetensors"](URI)
    assert same(weights["runai_safetensors_weights_iterator"](files), model)


def test_sglang_takes_concurrency_and_endpoint(
    model: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CONCURRENCY", "MEMORY_LIMIT", "S3_ENDPOINT"):
        monkeypatch.setenv(f"RUNAI_STREAMER_{name}", "to be restored")
        monkeypatch.delenv(f"RUNAI_STREAMER_{name}")
    names = ("set_runai_streamer_env", "runai_safetensors_weights_iterator")
    weights = sglang("srt/model_loader/weight_utils.py", *names)
    extra = {"concurrency": 2, "memory_limit": 1 << 20}
    weights["set_runai_streamer_env"](SimpleNamespace(model_loader_extra_config=extra))
    assert os.environ["RUNAI_STREAMER_S3_ENDPOINT"] == os.environ["AWS_ENDPOINT_URL"]
    files = runai.list_safetensors(URI)
    assert same(weights["runai_safetensors_weights_iterator"](files), model)


def test_sglang_mirrors_all_but_weights(model: dict[str, torch.Tensor], tmp_path: Path) -> None:
    cache = SimpleNamespace(SGLANG_CACHE_DIR=SimpleNamespace(get=lambda: str(tmp_path / "cache")))
    utils = sglang("srt/utils/runai_utils.py", "ObjectStorageModel", envs=cache)
    directory = utils["ObjectStorageModel"].download_and_get_path(URI)
    assert set(os.listdir(directory)) == {
        ".runai_complete",
        "config.json",
        "model.safetensors.index.json",
    }


def vllm(member: str, *names: str, **more: Any) -> dict[str, Any]:
    if missing := engine_missing(VLLM):
        pytest.skip(missing)
    namespace: dict[str, Any] = {
        "SUPPORTED_SCHEMES": ["s3://", "gs://", "az://"],
        "_BAR_FORMAT": BAR_FORMAT,
        "SAFE_WEIGHTS_INDEX_NAME": "model.safetensors.index.json",
        "SafetensorsStreamer": runai.SafetensorsStreamer,
        "current_platform": SimpleNamespace(is_cuda_alike=lambda: False),
        "enable_tqdm": bool,
        "json": json,
        "logger": logging.getLogger("vllm.streamer_test"),
        "os": os,
        "posixpath": posixpath,
        "runai_list_safetensors": runai.list_safetensors,
        "runai_pull_files": runai.pull_files,
        "tempfile": tempfile,
        "tqdm": tqdm,
        "urlsplit": urlsplit,
    } | more
    taken(VLLM, f"vllm/{member}", namespace, *names)
    return namespace


LOADER = "model_executor/model_loader/runai_streamer_loader.py"


def test_vllm_streams(model: dict[str, torch.Tensor]) -> None:
    utils = vllm("transformers_utils/runai_utils.py", "list_safetensors")
    weights = vllm(
        "model_executor/model_loader/weight_utils.py", "runai_safetensors_weights_iterator"
    )
    files = utils["list_safetensors"](URI)
    assert same(weights["runai_safetensors_weights_iterator"](files, True), model)


def test_vllm_reads_the_names_in_headers(model: dict[str, torch.Tensor]) -> None:
    loader = vllm(LOADER, "_get_remote_checkpoint_keys")
    keys = loader["_get_remote_checkpoint_keys"](runai.list_safetensors(URI))
    assert sorted(name for names in keys for name in names) == sorted(model)


@pytest.mark.parametrize(
    ("unused", "kept"),
    [
        (lambda name: name.startswith("m-0"), ["m-1.safetensors"]),
        (lambda name: name.endswith("000"), ["m-0.safetensors", "m-1.safetensors"]),
    ],
)
def test_vllm_leaves_files_out_that_it_needs_nothing_of(
    model: dict[str, torch.Tensor], unused: Callable[[str], bool], kept: list[str]
) -> None:
    loader = vllm(LOADER, "_filter_remote_weights", "_get_remote_checkpoint_keys")
    files = runai.list_safetensors(URI)
    selected = loader["_filter_remote_weights"](files, URI, unused)
    assert selected == [f"{URI}/{name}" for name in kept]


def test_vllm_pulls_what_is_no_weight(model: dict[str, torch.Tensor], tmp_path: Path) -> None:
    utils = vllm("transformers_utils/runai_utils.py", "ObjectStorageModel")
    mirror = object.__new__(utils["ObjectStorageModel"])
    mirror.dir = str(tmp_path / "mirror")
    mirror.pull_files(URI, ignore_pattern=["*.pt", "*.safetensors", "*.bin"])
    assert set(os.listdir(mirror.dir)) == {"config.json", "model.safetensors.index.json"}


class BaseLoader:
    """A stand-in for the class from which the engines' loaders inherit, as far as streaming uses
    it.
    """

    def __init__(self, load_config: Any) -> None:
        self.load_config = load_config


def load_config(**extra: object) -> SimpleNamespace:
    return SimpleNamespace(
        model_loader_extra_config=extra,
        use_tqdm_on_load=False,
        download_dir=None,
        ignore_patterns=None,
        draft_model_idx=None,
    )


def vllm_loader(**more: Any) -> dict[str, Any]:
    """vLLM's loader class with its own functions for listing and streaming."""
    utils = vllm("transformers_utils/runai_utils.py", "list_safetensors", "is_runai_obj_uri")
    iterator = "runai_safetensors_weights_iterator"
    weights = vllm("model_executor/model_loader/weight_utils.py", iterator)
    names = ("RunaiModelStreamerLoader", "_filter_remote_weights", "_get_remote_checkpoint_keys")
    return vllm(
        LOADER,
        *names,
        BaseModelLoader=BaseLoader,
        is_runai_obj_uri=utils["is_runai_obj_uri"],
        list_safetensors=utils["list_safetensors"],
        runai_safetensors_weights_iterator=weights[iterator],
        torch=torch,
        **more,
    )


@pytest.fixture
def settable(model: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that a loader sets; the fixture restores them."""
    for name in ("CONCURRENCY", "MEMORY_LIMIT", "S3_ENDPOINT"):
        monkeypatch.setenv(f"RUNAI_STREAMER_{name}", "to be restored")
        monkeypatch.delenv(f"RUNAI_STREAMER_{name}")


@pytest.mark.usefixtures("settable")
@pytest.mark.parametrize("distributed", [False, True])
def test_vllm_loads(model: dict[str, torch.Tensor], distributed: bool) -> None:
    options = load_config(concurrency=2, memory_limit=1 << 20, distributed=distributed)
    loader = vllm_loader()["RunaiModelStreamerLoader"](options)
    asked = SimpleNamespace(model="unused", model_weights=URI, revision=None)
    assert same(loader.get_all_weights(asked, SimpleNamespace()), model)


def tpu_loader(**more: Any) -> dict[str, Any]:
    """The TPU plugin's loader, which inherits from vLLM's."""
    if missing := engine_missing(TPU):
        pytest.skip(missing)
    namespace = vllm_loader(re=re, register_model_loader=lambda _: lambda loader: loader) | more
    loader = "tpu_inference/models/vllm/vllm_model_loader.py"
    taken(TPU, loader, namespace, "RunaiIncrementalModelLoader")
    taken(TPU, "tpu_inference/models/jax/utils/weight_utils.py", namespace, "load_hf_weights")
    return namespace


@pytest.mark.usefixtures("settable")
def test_the_tpu_plugin_loads(model: dict[str, torch.Tensor]) -> None:
    """Arrays of numpy stand for those of jax, which is not installed here."""
    loaded: dict[str, Any] = {}

    def load_and_shard(*arguments: Any, **options: Any) -> None:
        del options
        name, array = arguments[-2:]
        loaded[name] = array

    def copied(tensor: torch.Tensor) -> Any:
        return tensor.view(torch.uint8).numpy().copy()

    tpu = tpu_loader(
        _load_and_shard_weight=load_and_shard,
        check_all_loaded=lambda _: None,
        nnx=SimpleNamespace(
            state=lambda _: {}, get_named_sharding=lambda *_: {}, update=lambda *_: None
        ),
        num_hidden_layers_override=lambda _: None,
        torchax=SimpleNamespace(default_env=lambda: SimpleNamespace(t2j_copy=copied)),
    )
    loader = tpu["RunaiIncrementalModelLoader"](load_config(memory_limit=0))
    asked = SimpleNamespace(runai_model_weights_iterator=loader._get_weights_iterator(URI, None))
    tpu["load_hf_weights"](SimpleNamespace(model_config=asked), None, None, None)
    assert loaded.keys() == model.keys()
    assert all((loaded[name] == copied(tensor)).all() for name, tensor in model.items())


@pytest.mark.usefixtures("settable")
def test_sglang_loads(
    model: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = SimpleNamespace(SGLANG_CACHE_DIR=SimpleNamespace(get=lambda: str(tmp_path / "cache")))
    listing = ("ObjectStorageModel", "is_runai_obj_uri", "list_safetensors")
    utils = sglang("srt/utils/runai_utils.py", *listing, envs=cache)
    iterator = "runai_safetensors_weights_iterator"
    filters = ("filter_duplicate_safetensors_files", "maybe_add_mtp_safetensors")
    setting = ("set_runai_streamer_env", iterator)
    weights = sglang("srt/model_loader/weight_utils.py", *filters, *setting)
    for name, namespace in {
        "utils.runai_utils": utils,
        "model_loader.weight_utils": weights,
    }.items():
        monkeypatch.setitem(
            sys.modules, f"sglang.srt.{name}", cast("Any", SimpleNamespace(**namespace))
        )
    loaders = sglang(
        "srt/model_loader/loader.py",
        "RunaiModelStreamerLoader",
        BaseModelLoader=BaseLoader,
        Iterable=Iterable,
        SAFE_WEIGHTS_INDEX_NAME="model.safetensors.index.json",
        cast=cast,
        dataclasses=dataclasses,
        get_server_args=lambda: None,
        **{name: weights[name] for name in (*filters, *setting)},
    )
    utils["ObjectStorageModel"].download_and_get_path(URI)
    loader = loaders["RunaiModelStreamerLoader"](load_config(concurrency=2, memory_limit=1 << 20))
    loader.target_device_str = "cpu"
    asked = SimpleNamespace(model_path=URI, revision=None, hf_config=SimpleNamespace())
    assert same(loader._get_all_weights(asked, SimpleNamespace()), model)


def test_sglang_reads_diffusion_models(model: dict[str, torch.Tensor]) -> None:
    """SGLang's reader copies every tensor, so that views will do for it."""
    member = "multimodal_gen/runtime/loader/weight_readers/runai_streamer.py"
    more = {"HAS_RUNAI_MODEL_STREAMER": True, "SafetensorsStreamer": runai.SafetensorsStreamer}
    reader = sglang(member, "RunaiStreamerReader", **more)["RunaiStreamerReader"]()
    assert reader.is_available()
    files = runai.list_safetensors(URI)
    assert same(reader.iter_weights(files, device="cpu", to_cpu=True), model)
    first = min(model)
    chosen = reader.iter_weights(files, device="cpu", to_cpu=False, key_filter=first.__eq__)
    assert [name for name, _ in chosen] == [first]
