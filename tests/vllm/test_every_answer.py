"""Answers of kinds whose starts are too many for `make test`: tokens, log-probabilities, vectors.

`test_same_answers.py` and `test_quantised_answers.py` have the kinds that every run of the tests
starts. Here each kind is started twice, with `auto` and with streamerd's loader, and the answers
are the same bit for bit.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from tests.support.daemon import DaemonProcess
from tests.vllm.loading.adapter import write_adapter
from tests.vllm.loading.kinds import HUB_ID, KINDS, make_hub_cache, online_is_lacking
from tests.vllm.starts import Start, Starts
from tests.vllm.test_same_answers import Environment, assert_same, through

SEED, TARGET_SEED = 0, 9

OPERATOR_4_BIT: Final = "cpu_gemm_wna16"
TEXT_ALONE: Final = {"limit_mm_per_prompt": {"image": 0}}
"""Kinds that cannot be started here: an engine that takes images asks transformers for them, and
transformers asks for torchvision, which has no build for this torch. `test_every_kind.py` loads the
parts for images too."""

Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The checkpoint of a kind."""
    directory = tmp_path_factory.mktemp("kinds")

    def checkpoint(kind: str) -> Path:
        path = directory / kind
        if not path.exists():
            KINDS[kind].make(path, SEED)
        return path

    return checkpoint


def arguments(kind: str, **more: Any) -> str:
    return json.dumps(KINDS[kind].arguments | {"max_model_len": 128} | more)


def both(starts: Starts, daemon: DaemonProcess, environment: Environment = (), **how: Any) -> Any:
    """The answer through the daemon, and that of the stock loader."""
    ours = starts(
        Start(load_format="runai_streamer", environment=environment + through(daemon), **how)
    )
    return ours, starts(Start(environment=environment, **how))


@pytest.fixture(scope="module")
def multiplies_4_bit() -> bool:
    """Whether vLLM's build for this processor has the operator that runs GPTQ and AWQ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these warnings come from vLLM's own code
        from vllm.platforms import current_platform

        current_platform.import_kernels()
    return hasattr(torch.ops._C, OPERATOR_4_BIT)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_weights_of_four_bits(
    kind: str, made: Made, starts: Starts, daemon: DaemonProcess, multiplies_4_bit: bool
) -> None:
    if not multiplies_4_bit:
        pytest.skip(f"vLLM has no {OPERATOR_4_BIT} for a processor without AVX-512: none answers")
    ours, stock = both(starts, daemon, model=str(made(kind)), more=arguments(kind))
    assert_same(ours, stock)
    assert ours.tokens


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("remote-code", {}),
        ("transformers", {}),
        ("multi-modal", TEXT_ALONE),
        pytest.param(
            *("online", {}),
            marks=pytest.mark.skipif(bool(online_is_lacking()), reason=online_is_lacking()),
        ),
    ],
)
def test_one_model(
    kind: str, more: dict[str, Any], made: Made, starts: Starts, daemon: DaemonProcess
) -> None:
    ours, stock = both(starts, daemon, model=str(made(kind)), more=arguments(kind, **more))
    assert_same(ours, stock)
    assert ours.tokens
    assert "event=missing_weights" not in ours.output


@pytest.mark.full
@pytest.mark.parametrize("kind", ["embedding", "decoder-embedding"])
def test_embeddings(kind: str, made: Made, starts: Starts, daemon: DaemonProcess) -> None:
    model, more = str(made(kind)), arguments(kind)
    ours, stock = both(starts, daemon, model=model, more=more, action="embed")
    assert_same(ours, stock)
    assert ours.embeddings == stock.embeddings
    assert len({tuple(vector) for vector in ours.embeddings}) == len(ours.embeddings)


@pytest.mark.full
def test_with_an_adapter(made: Made, starts: Starts, daemon: DaemonProcess, tmp_path: Path) -> None:
    write_adapter(tmp_path, made("lora"))
    model, more = str(made("lora")), arguments("lora")
    ours, stock = both(starts, daemon, model=model, more=more, adapter=str(tmp_path))
    assert_same(ours, stock)
    assert all(ours.logprobs)
    plain = starts(Start(model, more=arguments("dense")))
    assert ours.tokens != plain.tokens


@pytest.mark.full
def test_with_a_draft_model(
    made: Made, starts: Starts, daemon: DaemonProcess, tmp_path: Path
) -> None:
    KINDS["dense"].make(tmp_path, TARGET_SEED)
    draft = {"model": str(made("draft")), "method": "draft_model", "num_speculative_tokens": 2}
    more = arguments("draft", speculative_config=draft)
    ours, stock = both(starts, daemon, model=str(tmp_path), more=more)
    assert_same(ours, stock)


@pytest.mark.full
def test_an_id_and_revision_of_the_hub(
    made: Made, starts: Starts, daemon: DaemonProcess, tmp_path: Path
) -> None:
    make_hub_cache(made("hub"), tmp_path)
    more = arguments("hub", **KINDS["hub"].located)
    environment = (("HF_HOME", str(tmp_path)),)
    ours, stock = both(starts, daemon, environment, model=HUB_ID, more=more)
    assert_same(ours, stock)


@pytest.mark.full
def test_experts_over_two_ranks(made: Made, starts: Starts, daemon: DaemonProcess) -> None:
    more = arguments("experts")
    model = str(made("experts"))
    ours, stock = both(starts, daemon, model=model, more=more, tensor_parallel_size=2)
    assert_same(ours, stock)
