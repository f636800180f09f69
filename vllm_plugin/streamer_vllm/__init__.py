"""vLLM plugin: the load formats `runai_streamer` and `runai_streamer_sharded`, served by streamerd.

`register` is the entry point in `vllm.general_plugins`. vLLM calls it early in every process, so it
imports nothing heavy and starts nothing. The loaders are registered when vLLM itself imports the
module that keeps them.
"""

from __future__ import annotations

import os

from streamer_client.contract.options import MODE_ENV, Mode

__all__ = ["register"]


def register() -> None:
    """Register the loaders under the stock names, unless `STREAMERD_MODE=off`. Idempotent."""
    if os.environ.get(MODE_ENV) == Mode.OFF:
        return
    from streamer_vllm.registration import install  # noqa: PLC0415  with `off`, nothing is imported

    install()
