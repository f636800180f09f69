"""The entry point is cheap and idempotent, and does nothing to vLLM until vLLM imports
its loaders.
"""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import streamer_vllm
from streamer_client import runai
from streamer_vllm import registration
from streamer_vllm.awaited import Awaiting

AWAITED = (
    registration.REGISTRY_MODULE,
    registration.PULLING_MODULE,
    registration.ITERATING_MODULE,
)


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in AWAITED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delenv("STREAMERD_MODE", raising=False)


def awaiting() -> list[str]:
    finders = [finder for finder in sys.meta_path if isinstance(finder, Awaiting)]
    return sorted(name for name in AWAITED for finder in finders if finder.awaits(name))


def test_it_waits_once_however_often_it_is_called(no_vllm: None) -> None:
    streamer_vllm.register()
    streamer_vllm.register()
    assert awaiting() == sorted(AWAITED)


def test_off_does_nothing(no_vllm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMERD_MODE", "off")
    streamer_vllm.register()
    assert not awaiting()


def test_it_imports_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, streamer_vllm; streamer_vllm.register(); "
        "print(sorted({'torch', 'vllm', 'zmq'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("usable", [True, False])
def test_loaders_take_their_places_once_where_vllm_has_what_they_need(
    usable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("UnshardedLoader", "ShardedLoader")
    ours = types.SimpleNamespace(**{name: type(name, (), {}) for name in names})
    monkeypatch.setattr("importlib.import_module", {"streamer_vllm.loaders": ours}.__getitem__)
    monkeypatch.setattr(registration, "usable", lambda: usable)
    monkeypatch.setattr(registration, "join_vllms_log", lambda: None)
    monkeypatch.delenv(registration.WRITER_ENV, raising=False)
    table: dict[str, type] = {"auto": object, "runai_streamer": object}
    calls: list[str] = []

    def register_model_loader(load_format: str) -> object:
        assert load_format not in table, "vLLM would warn that it is replaced"
        calls.append(load_format)
        return lambda loader: table.__setitem__(load_format, loader)

    registry = types.ModuleType("registry")
    registry.__dict__.update(
        _LOAD_FORMAT_TO_MODEL_LOADER=table, register_model_loader=register_model_loader
    )
    registration.register_loaders(registry)
    registration.register_loaders(registry)
    assert calls == (["runai_streamer", "runai_streamer_sharded"] if usable else [])
    assert table["auto"] is object


class Placeholder:
    """The object that vLLM puts in place of a package that is not installed."""


def of_package(name: str) -> object:
    def function() -> None: ...

    function.__module__ = f"runai_model_streamer.{name}"
    return function


@pytest.mark.parametrize("theirs", [Placeholder(), of_package("safetensors_streamer")])
def test_pulling_and_listing_are_ours_with_and_without_the_package(theirs: object) -> None:
    module = types.ModuleType("runai_utils")
    module.__dict__.update(runai_pull_files=theirs, runai_list_safetensors=theirs, other=theirs)
    registration.give_pulling(module)
    registration.give_pulling(module)
    assert vars(module)["runai_pull_files"] is runai.pull_files
    assert vars(module)["runai_list_safetensors"] is runai.list_safetensors
    assert vars(module)["other"] is theirs
    assert "RunaiObjectStorageModel" not in vars(module)


def test_a_vllm_that_uses_the_model_class_gets_ours() -> None:
    module = types.ModuleType("runai_utils")
    vars(module)["RunaiObjectStorageModel"] = Placeholder()
    registration.give_pulling(module)
    assert vars(module)["RunaiObjectStorageModel"] is runai.ObjectStorageModel


def test_stock_loaders_stream_with_ours_only_where_the_package_is_missing() -> None:
    module = types.ModuleType("weight_utils")
    theirs = of_package("safetensors_streamer")
    vars(module)["SafetensorsStreamer"] = theirs
    registration.give_iterating(module)
    assert vars(module)["SafetensorsStreamer"] is theirs
    vars(module)["SafetensorsStreamer"] = Placeholder()
    registration.give_iterating(module)
    assert vars(module)["SafetensorsStreamer"] is runai.SafetensorsStreamer
