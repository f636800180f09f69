"""`streamerctl shard`: hand over to the shard writer, which needs vLLM and so its own process."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamerd.cli.terminal import BAD_CONFIG, DONE, FAILED, USAGE

WRITER: Final = "streamer_vllm.sharding.command"
_NEEDED: Final = ("torch", "vllm")


def writer_command(arguments: argparse.Namespace) -> list[str]:
    """The command line of the writer for parsed arguments. Pure."""
    command = [sys.executable, "-m", WRITER, arguments.model, arguments.out]
    command += ["--tensor-parallel-size", str(arguments.tensor_parallel_size)]
    if arguments.pipeline_parallel_size != 1:
        command += ["--pipeline-parallel-size", str(arguments.pipeline_parallel_size)]
    if arguments.pattern is not None:
        command += ["--pattern", arguments.pattern]
    if arguments.max_file_size is not None:
        command += ["--max-file-size", str(arguments.max_file_size)]
    if arguments.enable_expert_parallel:
        command.append("--enable-expert-parallel")
    for option, value in (
        ("--dtype", arguments.dtype),
        ("--quantization", arguments.quantization),
    ):
        if value is not None:
            command += [option, value]
    return command


def run(arguments: argparse.Namespace) -> int:
    """Run the writer with this terminal; its exit code is one of ours, or means failed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"writing shards loads the model with vLLM, and {' and '.join(missing)} cannot be "
            f"imported by {sys.executable}; install streamerd into vLLM's environment: "
            "pip install 'streamerd[vllm]'"
        )
    status = subprocess.run(writer_command(arguments), check=False).returncode
    return status if status in (DONE, USAGE, BAD_CONFIG) else FAILED
