"""The shapes of the small models: the tensors in a checkpoint of each kind, and their scale.

Owns names, shapes and standard deviations; `model.py` draws the numbers and writes the files. Pure:
no torch.

The scales keep a random network lively. Every projection has the standard deviation 1/sqrt(inputs),
so that activations keep their size from layer to layer. The head's is wide enough that the next
token is neither certain nor a uniform draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["llama", "tied", "qwen3-moe"]
KINDS: Final[tuple[Kind, ...]] = ("llama", "tied", "qwen3-moe")

LOGIT_SCALE: Final = 3.0
"""The standard deviation of the logits for a hidden state of unit size."""

BRANCH_GAIN: Final = 6.0
"""The gain of attention and MLP in the residual stream. It is so large that the token's own
embedding hardly counts; otherwise a model with tied embeddings would repeat its last token for
ever."""

FOCUS: Final = 2.0
"""The gain of queries and of keys. It makes heads attend to single places, so that the next token
depends on more than the last one, and greedy decoding does not soon run in a circle."""


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The size of a model; `head_dim` is 64 throughout."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    experts: int
    head_dim: int = 64


SIZES: Final[dict[str, Dimensions]] = {
    "tiny": Dimensions(hidden=256, intermediate=512, layers=4, heads=4, kv_heads=2, experts=4),
    "small": Dimensions(hidden=1024, intermediate=2816, layers=7, heads=16, kv_heads=4, experts=4),
    "large": Dimensions(hidden=2048, intermediate=5632, layers=16, heads=32, kv_heads=8, experts=8),
}


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor to draw: normal around `mean` with standard deviation `scale`."""

    name: str
    shape: tuple[int, ...]
    scale: float
    mean: float = 0.0


def hf_config(kind: Kind, size: Dimensions, vocabulary: int) -> dict[str, object]:
    """The `config.json` of a model, with the names that transformers uses."""
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": kind == "tied",
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
    if kind == "qwen3-moe":
        config |= {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "num_experts": size.experts,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": size.intermediate // 2,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        }
    return config


def weights(kind: Kind, size: Dimensions, vocabulary: int) -> Iterator[Weight]:
    """Every tensor of the checkpoint, in the order of the layers."""
    tied = kind == "tied"
    head_scale = LOGIT_SCALE / size.hidden**0.5
    yield Weight(
        "model.embed_tokens.weight", (vocabulary, size.hidden), head_scale if tied else 1.0
    )
    for layer in range(size.layers):
        yield from _layer(kind, size, f"model.layers.{layer}.")
    yield _norm("model.norm", size.hidden)
    if not tied:
        yield Weight("lm_head.weight", (vocabulary, size.hidden), head_scale)


def _layer(kind: Kind, size: Dimensions, prefix: str) -> Iterator[Weight]:
    yield _norm(f"{prefix}input_layernorm", size.hidden)
    yield from _attention(kind, size, f"{prefix}self_attn.")
    yield _norm(f"{prefix}post_attention_layernorm", size.hidden)
    if kind != "qwen3-moe":
        yield from _mlp(f"{prefix}mlp.", size.hidden, size.intermediate)
        return
    yield _linear(f"{prefix}mlp.gate", size.experts, size.hidden)
    for expert in range(size.experts):
        yield from _mlp(f"{prefix}mlp.experts.{expert}.", size.hidden, size.intermediate // 2)


def _attention(kind: Kind, size: Dimensions, prefix: str) -> Iterator[Weight]:
    queries, keys = size.heads * size.head_dim, size.kv_heads * size.head_dim
    yield _linear(f"{prefix}q_proj", queries, size.hidden, FOCUS)
    yield _linear(f"{prefix}k_proj", keys, size.hidden, FOCUS)
    yield _linear(f"{prefix}v_proj", keys, size.hidden)
    yield _linear(f"{prefix}o_proj", size.hidden, queries, BRANCH_GAIN)
    if kind == "qwen3-moe":
        yield _norm(f"{prefix}q_norm", size.head_dim, FOCUS)
        yield _norm(f"{prefix}k_norm", size.head_dim, FOCUS)


def _mlp(prefix: str, hidden: int, intermediate: int) -> Iterator[Weight]:
    yield _linear(f"{prefix}gate_proj", intermediate, hidden)
    yield _linear(f"{prefix}up_proj", intermediate, hidden)
    yield _linear(f"{prefix}down_proj", hidden, intermediate, BRANCH_GAIN)


def _linear(name: str, outputs: int, inputs: int, gain: float = 1.0) -> Weight:
    return Weight(f"{name}.weight", (outputs, inputs), gain * inputs**-0.5)


def _norm(name: str, width: int, mean: float = 1.0) -> Weight:
    return Weight(f"{name}.weight", (width,), 0.1, mean)
