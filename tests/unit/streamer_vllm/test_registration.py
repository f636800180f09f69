"""The entry point: cheap, idempotent, and silent about vLLM until vLLM imports its loaders."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import streamer_vllm
from streamer_vllm import registration


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, registration.REGISTRY_MODULE, raising=False)
    monkeypatch.delenv("STREAMERD_MODE", raising=False)


def awaiting() -> list[object]:
    return [finder for finder in sys.meta_path if type(finder).__name__ == "_Awaiting"]


def test_it_waits_once_however_often_it_is_called(no_vllm: None) -> None:
    streamer_vllm.register()
    streamer_vllm.register()
    assert len(awaiting()) == 1


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


def test_loaders_take_their_places_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaders = {
        name: types.SimpleNamespace(**{attribute: type(attribute, (), {})})
        for name, attribute in (
            ("streamer_vllm.unsharded", "UnshardedLoader"),
            ("streamer_vllm.sharded", "ShardedLoader"),
        )
    }
    monkeypatch.setattr("importlib.import_module", loaders.__getitem__)
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
    assert calls == ["runai_streamer", "runai_streamer_sharded"]
    assert table["auto"] is object
