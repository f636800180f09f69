"""Finds weights that a checkpoint lacks, since a model may load without them and answer nonsense.

vLLM's own check skips every module that processes its weights after loading, which is nearly all of
them. This check looks at parameters that nothing was loaded into. It also looks at names that the
checkpoint lacks although it has their siblings: parts of a fused parameter, experts of a layer.
Runs in each rank, after the load.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from torch import nn

from streamer_client.contract.errors import CorruptCheckpoint
from streamer_client.contract.printable import printable
from streamer_vllm.versions import check_all_loaded

logger = logging.getLogger(__name__)

SHOWN: Final = 8
"""How many names one line shows; a number then tells how many there are in all."""

_BUILT_FROM_CONFIG: Final = ("input_scale_ub",)
"""Parameters that vLLM makes from the configuration; its own check has the same list."""

_STORED_WEIGHTS: Final = ("weight", "qweight", "weight_packed")
"""The last words of names under which quantised methods store a layer's numbers. Other names, such
as those of scales, are missing in some layers and experts on purpose."""

_EXPERT: Final = re.compile(r"^(.*\.experts)\.([0-9]{1,6})\.(.+)$")


def check_weights(
    model: nn.Module,
    loaded: Collection[str] | None,
    stored: Iterable[str],
    *,
    source: str,
    quantized: bool,
    strict: bool,
) -> None:
    """Report weights that are missing; then run vLLM's own check, which raises as ever.

    Args:
        model: the model after `load_weights`.
        loaded: the parameters that `load_weights` says it loaded; None if the model does not say.
        stored: every name in the checkpoint.
        source: the source, for people.
        quantized: whether to compare only stored names, as a quantised method may make parameters.
        strict: whether to raise an error instead of a warning.

    Raises:
        CorruptCheckpoint: `strict` is set, and weights are missing.
        ValueError: vLLM's own check found missing weights.
    """
    packed = getattr(model, "packed_modules_mapping", None) or {}
    if quantized:
        weights = (name for name in stored if name.rpartition(".")[2] in _STORED_WEIGHTS)
        if missing := missing_siblings(weights, packed):
            _tell(missing, source, strict=strict)
        return
    missing = [] if loaded is None else sorted(_untouched(model, set(loaded)))
    missing += missing_siblings(stored, packed)
    if missing:
        _tell(missing, source, strict=strict)
    if loaded is not None:
        check_all_loaded(model, set(loaded))


def _tell(missing: Sequence[str], source: str, *, strict: bool) -> None:
    names = ", ".join(printable(name) for name in missing[:SHOWN])
    shown = f"{names}, ..." if len(missing) > SHOWN else names
    if strict:
        raise CorruptCheckpoint(
            f"{source}: nothing was loaded into {len(missing)} weights of the model: {shown}; "
            "copy the checkpoint again as a whole, or leave `strict` out to load it as it is"
        )
    logger.warning(
        "event=missing_weights source=%s count=%d names=%r consequence=%r",
        source,
        len(missing),
        shown,
        "the model will answer nonsense if these are needed",
    )


def missing_siblings(stored: Iterable[str], packed: Mapping[str, Sequence[str]]) -> list[str]:
    """Names that the checkpoint should have since it has their siblings. Pure.

    A part of a fused parameter is missing if another layer has it. Some architectures leave one
    part out everywhere; then no layer has it.

    Args:
        stored: every name in the checkpoint.
        packed: vLLM's `packed_modules_mapping`: each fused module, and the modules that it is made
            of.
    """
    names = set(stored)
    return sorted({*_missing_parts(names, packed), *_missing_experts(names)})


def _missing_parts(names: set[str], packed: Mapping[str, Sequence[str]]) -> Iterator[str]:
    templates = {_template(name) for name in names}
    for parts in packed.values():
        for name in names:
            owner, _, last = name.rpartition(".")
            prefix, _, module = owner.rpartition(".")
            if module not in parts:
                continue
            for sibling in parts:
                other = f"{prefix}.{sibling}.{last}"
                if other not in names and _template(other) in templates:
                    yield other


def _missing_experts(names: set[str]) -> Iterator[str]:
    """The weights that an expert lacks although another expert of its layer has them.

    Numbers without an expert count as missing experts if at least half of the numbers have one. A
    file may name any number, and a layer that lacks most of them is numbered in another way.
    """
    experts: dict[str, set[str]] = defaultdict(set)
    weights: dict[str, set[str]] = defaultdict(set)
    for name in names:
        if found := _EXPERT.match(name):
            experts[found[1]].add(found[2])
            weights[found[1]].add(found[3])
    for layer, numbers in experts.items():
        known = sorted(map(int, numbers))
        expected = known[-1] + 1
        for number in range(expected) if expected <= 2 * len(known) else known:
            for weight in weights[layer]:
                name = f"{layer}.{number}.{weight}"
                if name not in names:
                    yield name


def _template(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _untouched(model: nn.Module, loaded: set[str]) -> Iterator[str]:
    """Parameters that nothing was loaded into, and that no layer of vLLM makes for itself."""
    from vllm.model_executor.layers.quantization.kv_cache import (  # noqa: PLC0415  heavy
        BaseKVCacheMethod,
    )

    own = set()
    for module_name, module in model.named_modules():
        method: Any = getattr(module, "quant_method", None)
        if isinstance(method, BaseKVCacheMethod) or getattr(method, "uses_meta_device", False):
            prefix = f"{module_name}." if module_name else ""
            own |= {prefix + name for name, _ in module.named_parameters()}
    parameters = dict(model.named_parameters())
    known = loaded | own | told_by_a_holder(loaded - parameters.keys(), parameters)
    for name, parameter in parameters.items():
        built = name.rpartition(".")[2] in _BUILT_FROM_CONFIG
        if parameter.numel() and not built and name not in known:
            yield name


def told_by_a_holder(told: set[str], parameters: Iterable[str]) -> set[str]:
    """Parameters whose names were told without the module that has them. Pure.

    The experts of vLLM 0.30 let the module that they hold load the weights, and pass on the names
    that it tells: `mlp.experts.w13_weight`, for `mlp.experts.routed_experts.w13_weight`.

    Args:
        told: names that were told and that no parameter has.
        parameters: the names of all parameters.
    """
    found = set()
    for name in parameters:
        owner, _, last = name.rpartition(".")
        if f"{owner.rpartition('.')[0]}.{last}" in told:
            found.add(name)
    return found
