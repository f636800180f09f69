"""Names of shard files: vLLM's defaults, custom ones, and names that cannot work."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_vllm.sharding.pattern import Place, file_glob, file_name

ALONE = Place(tp_rank=0, tp_size=1)
TENSOR = Place(tp_rank=1, tp_size=2)
PIPELINE = Place(tp_rank=0, tp_size=1, pp_rank=1, pp_size=2)
BOTH = Place(tp_rank=3, tp_size=4, pp_rank=1, pp_size=2)


@pytest.mark.parametrize(
    ("pattern", "place", "glob"),
    [
        (None, ALONE, "model-rank-0-part-*.safetensors"),
        (None, TENSOR, "model-rank-1-part-*.safetensors"),
        (None, PIPELINE, "model-pp-1-tp-0-part-*.safetensors"),
        (None, BOTH, "model-pp-1-tp-3-part-*.safetensors"),
        ("r{rank}.safetensors", TENSOR, "r1.safetensors"),
        ("r{tp_rank}-{rank}-{part}", TENSOR, "r1-1-*"),
        ("{pp_rank}/{rank}-{part}", BOTH, "1/3-*"),
        ("{{pp_rank}}-{rank}-{part}", TENSOR, "{pp_rank}-1-*"),
        ("r{rank:03d}-{part:05d}", TENSOR, "r001-*"),
        ("all-{part}.safetensors", ALONE, "all-*.safetensors"),
        ("{pp_rank}-{part}", PIPELINE, "1-*"),
    ],
)
def test_what_a_rank_reads(pattern: str | None, place: Place, glob: str) -> None:
    assert file_glob(pattern, place) == glob


@pytest.mark.parametrize(
    ("pattern", "place", "told"),
    [
        ("{rank}-{ranks}", ALONE, r"\{ranks\}; known: \{pp_rank\}, \{tp_rank\}, \{rank\}"),
        ("{}-{part}", ALONE, r"uses \{\}"),
        ("{0}-{part}", ALONE, r"uses \{0\}"),
        ("{rank.real}-{part}", ALONE, r"uses \{rank.real\}"),
        ("{rank", ALONE, "malformed"),
        ("rank}", ALONE, "malformed"),
        ("{rank:q}-{part}", ALONE, "cannot be rendered"),
        ("{part}", TENSOR, "2 tensor-parallel ranks would share"),
        ("{{rank}}-{part}", TENSOR, "2 tensor-parallel ranks would share"),
        ("{rank}-{part}", PIPELINE, "2 pipeline stages would share"),
        ("{pp_rank}-{part}", BOTH, "4 tensor-parallel ranks would share"),
        ("{pp_rank}-{rank}-{part}", TENSOR, "pipeline-parallel size is 1"),
    ],
)
def test_what_cannot_work(pattern: str, place: Place, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        file_glob(pattern, place)


def test_what_a_rank_writes() -> None:
    assert file_name(None, TENSOR, 2) == "model-rank-1-part-2.safetensors"
    assert file_name("w{rank}.{part:03d}", TENSOR, 2) == "w1.002"


def test_parts_need_names_of_their_own() -> None:
    with pytest.raises(ConfigError, match=r"has no \{part\}"):
        file_name("w{rank}", TENSOR, 0)
