"""`streamerctl shard`: starts the shard writer, which loads vLLM and so is a process of its own."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from typing import Final

from streamer_client.contract.errors import ConfigError, SourceNotFound
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
    """Run the writer on this terminal; exit codes that streamerctl does not know become "failed".

    Raises:
        ConfigError: vLLM cannot be imported.
        SourceNotFound: the model is a path, and nothing is there.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"writing shards loads the model with vLLM, and {' and '.join(missing)} cannot be "
            f"imported by {sys.executable}; install streamerd into vLLM's environment: "
            "pip install 'streamerd[vllm]'"
        )
    model = os.path.expanduser(arguments.model)
    if model.startswith(("/", "./", "../")) and not os.path.exists(model):
        # vLLM would take it for the id of a model on a hub, and fail with the hub's words.
        raise SourceNotFound(
            f"{arguments.model}: no such file or directory; check the path for typing errors"
        )
    status = subprocess.run(writer_command(arguments), check=False).returncode
    return status if status in (DONE, USAGE, BAD_CONFIG) else FAILED
