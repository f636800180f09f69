"""Weights that a model takes from other sources than its folder, such as an encoder's or a head's.

Some models of vLLM name such sources (`secondary_weights`). Ultravox has its language model in a
repository of its own, and BGE-M3 its sparse head in a `.pt` file. vLLM's own loader reads these
sources without the daemon, since it knows their forms. Runs in each rank, after the other weights
were handed out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from vllm.config.load import LoadConfig

from streamer_client.contract.errors import CorruptCheckpoint
from streamer_client.contract.printable import printable
from streamer_vllm.versions import stock_weights

logger = logging.getLogger(__name__)


def secondary_weights(
    model: nn.Module, load_config: LoadConfig, *, strict: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of every such source, under the names that the model expects.

    Args:
        model: the model, which names the sources, or none.
        load_config: says where downloads go; its format is that of the other weights.
        strict: whether a source without weights is an error; otherwise the log tells.

    Raises:
        CorruptCheckpoint: `strict` is set, and a source has no weights.
    """
    sources: Any = getattr(model, "secondary_weights", None) or ()
    for source in sources:
        try:
            weights = stock_weights(load_config, source)
            first = next(weights, None)
        except RuntimeError as error:  # vLLM raises it for a folder without such files
            _tell(str(source.model_or_path), error, strict=strict)
            continue
        if first is not None:
            yield first
            yield from weights


def _tell(place: str, error: RuntimeError, *, strict: bool) -> None:
    if strict:
        raise CorruptCheckpoint(
            f"{place}: weights that the model takes from there cannot be had ({error}); download "
            "them too, or leave `strict` out to load without them"
        ) from error
    logger.warning(
        "event=secondary_weights_missing source=%s reason=%r consequence=%r",
        printable(place),
        str(error),
        "the model will answer nonsense if these are needed",
    )
