"""The loaders by themselves, without an engine: the files that they take, their warnings and their
refusals.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.vllm.starts import Starts

torch = pytest.importorskip("torch")

Load = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import vLLM; it and its libraries may raise warnings of their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("streamer_vllm.loaders", "vllm.distributed"):
            importlib.import_module(name)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads the files in `tmp_path` into a module's parameters."""
    from vllm.config.load import LoadConfig

    from streamer_vllm import loaders
    from streamer_vllm.sharding.pattern import Place

    monkeypatch.setattr(loaders, "current_place", lambda: Place(0, 1))

    def loaded(module: Any, **extra: Any) -> None:
        config = LoadConfig(
            load_format="runai_streamer_sharded",
            model_loader_extra_config={"mode": "direct", **extra},
            use_tqdm_on_load=False,
        )
        model: Any = SimpleNamespace(
            model=str(tmp_path), model_weights="", revision=None, quantization=None
        )
        loaders.ShardedLoader(config).load_weights(module, model)

    return loaded


def store(directory: Path, part: int = 0, **tensors: Any) -> None:
    from safetensors.torch import save_file

    save_file(tensors, directory / f"model-rank-0-part-{part}.safetensors")


def linear(rows: int = 2, columns: int = 3) -> Any:
    return torch.nn.Linear(columns, rows)


def test_parts_together_fill_the_model(tmp_path: Path, load: Load) -> None:
    store(tmp_path, 0, weight=torch.ones(2, 3))
    store(tmp_path, 1, bias=torch.full((2,), 5.0))
    module = linear()
    load(module)
    assert module.weight.eq(1).all()
    assert module.bias.eq(5).all()


def test_a_parameter_that_is_missing_is_named(tmp_path: Path, load: Load) -> None:
    from streamer_client import SourceError

    store(tmp_path, weight=torch.ones(2, 3))
    with pytest.raises(SourceError, match="bias"):
        load(linear())


def test_a_tensor_that_is_not_expected_is_named(tmp_path: Path, load: Load) -> None:
    from streamer_client import SourceError

    store(tmp_path, weight=torch.ones(2, 3), bias=torch.ones(2), scale=torch.ones(1))
    with pytest.raises(SourceError, match="scale"):
        load(linear())


def test_padding_and_dtypes_are_warned_of(
    tmp_path: Path, load: Load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    store(tmp_path, weight=torch.ones(2, 3), bias=torch.full((2,), 2.0, dtype=torch.bfloat16))
    module = linear(rows=4)
    with torch.no_grad():
        module.weight.fill_(7)
        module.bias.fill_(7)
    load(module)
    assert module.weight[:2].eq(1).all()
    assert module.weight[2:].eq(7).all()
    assert module.bias.tolist() == [2, 2, 7, 7]
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(
        "tensor=weight stored_dtype=F32 stored_shape=[2, 3]" in text and "[4, 3]" in text
        for text in warnings
    )
    assert any(
        "tensor=bias stored_dtype=BF16 stored_shape=[2]" in text and "float32" in text
        for text in warnings
    )


def test_shared_parameters_are_stored_once(tmp_path: Path, load: Load) -> None:
    """vLLM's own writer does the same: it uses the smaller of the two names."""
    module = torch.nn.ModuleDict({"a": linear(), "b": linear()})
    module["b"].weight = module["a"].weight
    store(
        tmp_path,
        **{"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2), "b.bias": torch.zeros(2)},
    )
    load(module)
    assert module["b"].weight.eq(1).all()


def test_a_pattern_may_name_folders(tmp_path: Path, load: Load) -> None:
    (tmp_path / "rank0").mkdir()
    store(tmp_path / "rank0", weight=torch.ones(2, 3), bias=torch.ones(2))
    module = linear()
    load(module, pattern="rank{rank}/model-rank-0-part-{part}.safetensors")
    assert module.bias.eq(1).all()


def test_no_file_names_the_pattern_and_what_is_there(tmp_path: Path, load: Load) -> None:
    from streamer_client import SourceNotFound

    (tmp_path / "model-rank-1-part-0.safetensors").write_bytes(b"")
    with pytest.raises(SourceNotFound) as caught:
        load(linear())
    assert "model-rank-0-part-*.safetensors" in str(caught.value)
    assert "model-rank-1-part-0.safetensors" in str(caught.value)


def test_a_model_that_vllm_quantises_while_it_loads_takes_no_shards(
    tmp_path: Path, load: Load
) -> None:
    """Its parameters have no memory until weights come; stock fails with a KeyError."""
    from streamer_client import ConfigError

    store(tmp_path, weight=torch.ones(2, 3), bias=torch.ones(2))
    module = linear()
    module.weight = torch.nn.Parameter(module.weight.to("meta"))
    with pytest.raises(ConfigError, match=r"quantises weights.* of weight\).* runai_streamer,"):
        load(module)


def test_shards_of_such_a_model_are_not_written(tmp_path: Path) -> None:
    from vllm.config.load import LoadConfig

    from streamer_client import ConfigError
    from streamer_vllm.sharding.writer import ShardWriter

    config = LoadConfig(
        load_format="streamerd_save", model_loader_extra_config={"directory": str(tmp_path)}
    )
    model: Any = SimpleNamespace(quantization="fp8")
    with pytest.raises(ConfigError, match="quantization=fp8, for example of weight"):
        ShardWriter(config).load_weights(torch.nn.Linear(3, 2, device="meta"), model)
    assert not list(tmp_path.glob("*.safetensors"))


def test_an_object_store_is_refused_by_name(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamer_client import ConfigError
    from streamer_vllm import loaders

    monkeypatch.setattr(loaders, "weights_folder", lambda *_: "hdfs://cluster/model")
    with pytest.raises(ConfigError, match="hdfs"):
        load(linear())


@pytest.mark.parametrize("load_format", ["runai_streamer", "runai_streamer_sharded"])
def test_mode_off_in_the_config_means_the_stock_loader(load_format: str) -> None:
    from vllm.config.load import LoadConfig

    from streamer_vllm.loaders import ShardedLoader, UnshardedLoader

    ours = ShardedLoader if load_format.endswith("sharded") else UnshardedLoader
    config = LoadConfig(
        load_format=load_format, model_loader_extra_config={"mode": "off", "socket": "/x"}
    )
    loader = ours(config)
    assert type(loader).__module__.startswith("vllm.")
    assert not loader.load_config.model_loader_extra_config


@pytest.mark.parametrize("load_format", ["runai_streamer", "runai_streamer_sharded"])
def test_a_wrong_key_is_a_value_error(load_format: str) -> None:
    from vllm.config.load import LoadConfig

    from streamer_vllm.loaders import ShardedLoader, UnshardedLoader

    ours = ShardedLoader if load_format.endswith("sharded") else UnshardedLoader
    with pytest.raises(ValueError, match="did you mean memory_limit"):
        ours(LoadConfig(load_format=load_format, model_loader_extra_config={"memory-limit": 5}))


PATTERNS = (
    None,
    "model-rank-{rank}-part-{part}.safetensors",
    "{tp_rank}-{rank}-{part}",
    "{{pp_rank}}-{rank}-{part}",
    "{pp_rank}-{tp_rank}-{part}",
    "{pp_rank}-{part}",
    "{part}",
    "{rank}-{other}",
    "{rank",
)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_patterns_mean_what_they_mean_to_the_stock_loader(
    pattern: str | None, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.model_executor.model_loader.sharded_state_loader import ShardedStateLoader

    from streamer_vllm.sharding.pattern import Place, file_glob
    from vllm import distributed

    if not hasattr(ShardedStateLoader, "_render_default_pattern"):
        pytest.skip("this vLLM's own loader has no function that renders a pattern")
    tensor, pipeline = sizes
    place = Place(tensor - 1, tensor, pipeline - 1, pipeline)
    groups = {
        "get_tensor_model_parallel_rank": place.tp_rank,
        "get_pipeline_model_parallel_rank": place.pp_rank,
        "get_tp_group": SimpleNamespace(world_size=tensor),
        "get_pp_group": SimpleNamespace(world_size=pipeline),
    }
    for name, value in groups.items():
        monkeypatch.setattr(distributed, name, lambda value=value: value)
    assert _or_error(lambda: file_glob(pattern, place)) == _or_error(
        lambda: ShardedStateLoader._render_default_pattern(pattern, part="*")
    )


def _or_error(render: Callable[[], str]) -> str:
    try:
        return render()
    except ValueError:
        return "an error"


@pytest.mark.parametrize(
    ("mode", "package"),
    [("auto", "streamer_vllm"), ("off", "vllm.model_executor.model_loader")],
)
def test_the_installed_plugin_takes_the_stock_names(
    mode: str, package: str, starts: Starts
) -> None:
    """A fresh interpreter with `auto`, in which the plugin comes before vLLM's loaders."""
    run = starts.run_cold if mode == "auto" else starts.run
    done = run("tests.vllm.registered", STREAMERD_MODE=mode)
    assert done.returncode == 0, done.output
    assert done.output.count(f": '{package}.") == 2
    assert "will be overwritten" not in done.output
    assert done.output.rstrip().endswith("False")
