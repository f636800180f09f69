"""The two load formats: `runai_streamer` and `runai_streamer_sharded`.

Owns the methods that vLLM calls; the modules below decide where files are, what is read of them and
how. Both classes derive from the stock ones, so that they have whatever else vLLM asks of those;
only the reading of weights differs. Runs in each rank, in vLLM's own thread.

Every rank goes through all tensors of a safetensors checkpoint, except those that vLLM says it will
not use, and the model takes what it needs. On the CPU, tensors are views of the shared slabs. For a
GPU they are made on the GPU, a bounded amount ahead. Sharded files hold the rank's state dict as it
is, so their bytes go straight into the parameters' memory.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import nn
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.runai_streamer_loader import RunaiModelStreamerLoader
from vllm.model_executor.model_loader.sharded_state_loader import ShardedStateLoader

from streamer_client.checkpoint import Checkpoint
from streamer_client.contract.errors import ConfigError
from streamer_client.contract.options import Mode
from streamer_client.contract.printable import printable
from streamer_client.tensors.selection import CatalogEntry
from streamer_vllm.files.choice import chosen_files, weights_folder
from streamer_vllm.missing_weights import check_weights
from streamer_vllm.options import Options, parse_options
from streamer_vllm.ranks import current_place, expert_parallel
from streamer_vllm.registration import UNSHARDED_FORMAT
from streamer_vllm.secondary_weights import secondary_weights
from streamer_vllm.session import opened
from streamer_vllm.sharding.made_for import Wanted, check_made_for, is_sharded, naming_writer
from streamer_vllm.sharding.pattern import file_glob
from streamer_vllm.slices import weights_of
from streamer_vllm.versions import installed_version
from streamer_vllm.wanted_weights import device_of, unwanted_weights, wanted_names

logger = logging.getLogger(__name__)

Weights = Generator[tuple[str, torch.Tensor], None, None]

_OWN_KEYS = frozenset({"mode", "slices", "socket", "strict"})


class StreamerLoader(BaseModelLoader):
    """What both loaders share: options, the way back to the stock loader, downloads."""

    sharded: ClassVar[bool]
    options: Options

    def __new__(cls, load_config: LoadConfig) -> Any:
        """Make vLLM's own loader instead, if the extra config has mode `off`.

        Raises:
            ValueError: the extra config has a key or a value that the format does not know.
        """
        extra_config = load_config.model_loader_extra_config
        options = parse_options(extra_config, os.environ, sharded=cls.sharded)
        if options.mode is Mode.OFF:
            return _stock_loader(load_config, sharded=cls.sharded)
        loader = super().__new__(cls)
        loader.options = options
        return loader

    def folder(self, model_config: ModelConfig) -> str:
        """The directory or prefix of the model's weights; downloads missing weights."""
        name = model_config.model_weights or model_config.model
        return weights_folder(name, model_config.revision, self.load_config)

    def download_model(self, model_config: ModelConfig) -> None:
        self.folder(model_config)

    def _as(self, other: type[StreamerLoader]) -> Any:
        """The other format's loader with this one's options, if the folder needs it."""
        loader: Any = BaseModelLoader.__new__(other)
        loader.options = self.options
        loader.__init__(self.load_config)
        return loader


class UnshardedLoader(StreamerLoader, RunaiModelStreamerLoader):
    """Streams a checkpoint into `model.load_weights`."""

    sharded = False

    def __init__(self, load_config: LoadConfig) -> None:
        # The stock constructor is not called: it knows fewer keys, and writes them to the
        # environment.
        BaseModelLoader.__init__(self, load_config)
        self._is_distributed = self.options.distributed

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        folder = self.folder(model_config)
        if _is_draft(model_config) and is_sharded(folder, file_glob(None, current_place())):
            self._as(ShardedLoader).load_weights(model, model_config)
            return
        with self._opened(folder) as checkpoint:
            names = _names(checkpoint, model, model_config)
            with weights_of(checkpoint, model, names, self.options) as weights:
                loaded = cast("Any", model).load_weights(self._with_secondary(weights, model))
            check_weights(
                model,
                loaded,
                checkpoint.catalog,
                source=folder,
                quantized=model_config.quantization is not None,
                strict=self.options.strict,
            )

    def get_all_weights(self, model_config: ModelConfig, model: nn.Module) -> Weights:
        """All tensors of the checkpoint, by name; vLLM reloads a model from them."""
        with self._opened(self.folder(model_config)) as checkpoint:
            names = _names(checkpoint, model, model_config)
            yield from self._with_secondary(checkpoint.tensors(device_of(model), names), model)

    def _with_secondary(
        self, weights: Iterator[tuple[str, torch.Tensor]], model: nn.Module
    ) -> Weights:
        """These weights, and then those that the model takes from other sources."""
        yield from weights
        yield from secondary_weights(model, self.load_config, strict=self.options.strict)

    def _opened(self, folder: str) -> Any:
        chosen = chosen_files(folder)
        return opened(
            self.options,
            folder,
            files=None if chosen is None else chosen.files,
            owners=None if chosen is None else chosen.owners,
            hold=True,
            bar=self.load_config.use_tqdm_on_load,
        )


class ShardedLoader(StreamerLoader, ShardedStateLoader):
    """Loads a rank's own shard into its parameters."""

    sharded = True

    def __init__(self, load_config: LoadConfig) -> None:
        # The stock constructor is not called, as it knows fewer keys.
        BaseModelLoader.__init__(self, load_config)
        self.pattern = self.options.pattern

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        folder = self.folder(model_config)
        place = current_place()
        wanted = file_glob(self.options.pattern, place)
        if _is_draft(model_config) and not is_sharded(folder, wanted):
            self._as(UnshardedLoader).load_weights(model, model_config)
            return
        check_takes_shards(model, model_config.quantization)
        note = check_made_for(
            folder,
            Wanted(place, expert_parallel(), model_config.quantization, self.options.pattern),
        )
        below, pattern = os.path.split(wanted)
        with (
            naming_writer(note, installed_version()),
            opened(
                self.options,
                os.path.join(folder, below) if below else folder,
                pattern=pattern,
                hold=False,
                bar=self.load_config.use_tqdm_on_load,
            ) as checkpoint,
        ):
            checkpoint.load_into(state_dict_to_load(model), on_mismatch=_warn)

    def iterate_over_files(self, paths: Sequence[str]) -> Weights:
        """All tensors of these files, by name."""
        folder = os.path.dirname(paths[0])
        with opened(self.options, folder, files=paths, hold=True, bar=False) as checkpoint:
            yield from checkpoint.tensors()


def check_takes_shards(model: nn.Module, quantization: str | None) -> None:
    """Check that vLLM does not quantise this model while it loads it.

    Such a parameter has no memory until weights of an ordinary checkpoint come, in whose place vLLM
    then puts the quantised ones. Neither its own sharded loader nor ours can fill it.

    Raises:
        ConfigError: it does.
    """
    waiting = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if waiting:
        raise ConfigError(
            f"vLLM quantises weights while it loads them (quantization={quantization}, for example "
            f"of {printable(waiting[0])}), which it does with ordinary checkpoints alone; load the "
            f"checkpoint itself with --load-format {UNSHARDED_FORMAT}, or shard and load it "
            "without this quantization"
        )


def state_dict_to_load(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a model that a sharded checkpoint holds; of those sharing memory, the largest.

    This is vLLM's own choice, so that files written by the one load with the other.
    """
    chosen: dict[str, torch.Tensor] = ShardedStateLoader._filter_subtensors(  # noqa: SLF001
        model.state_dict()
    )
    return chosen


def _names(
    checkpoint: Checkpoint, model: nn.Module, model_config: ModelConfig
) -> frozenset[str] | None:
    """The names of the tensors that this rank wants; None for all."""
    unwanted = unwanted_weights(model, model_config)
    return None if unwanted is None else wanted_names(checkpoint.catalog, unwanted)


def _is_draft(model_config: ModelConfig) -> bool:
    """Whether this is a draft model, which vLLM loads with the format of its target."""
    return getattr(model_config, "runner_type", "") == "draft"


def _stock_loader(load_config: LoadConfig, *, sharded: bool) -> BaseModelLoader:
    """The stock loader of the same name, without the keys that only streamerd knows."""
    plain = copy.copy(load_config)
    plain.model_loader_extra_config = {
        key: value
        for key, value in dict(load_config.model_loader_extra_config).items()
        if key not in _OWN_KEYS
    }
    return ShardedStateLoader(plain) if sharded else RunaiModelStreamerLoader(plain)


def _warn(name: str, stored: CatalogEntry, target: torch.Tensor) -> None:
    """Warn of a parameter that differs from what is stored, such as one padded for LoRA."""
    logger.warning(
        "event=stored_differently tensor=%s stored_dtype=%s stored_shape=%s dtype=%s shape=%s",
        printable(name),
        stored.dtype,
        list(stored.shape),
        target.dtype,
        list(target.shape),
    )
