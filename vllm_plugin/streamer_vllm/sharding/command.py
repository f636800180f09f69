"""Writes a pre-sharded checkpoint: `python -m streamer_vllm.sharding.command MODEL OUT ...`.

`streamerctl shard` runs this as its own process. It starts real vLLM workers, each of which loads
the model and writes its own shard (`writer.py`), without an engine, a cache or a forward step. OUT
appears whole or not at all: everything is written beside it and renamed at the end. A note beside
the shards tells what they were made for (`made_for.py`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from streamer_client.contract.errors import ConfigError, StreamerError
from streamer_client.contract.options import MODE_ENV, Mode
from streamer_client.contract.sizes import parse_size
from streamer_client.contract.uris import is_remote
from streamer_client.storage.os_errors import absolute_path
from streamer_vllm.registration import WRITER_ENV, WRITER_FORMAT
from streamer_vllm.sharding.made_for import FORMAT, MadeFor, write_note
from streamer_vllm.sharding.model_files import (
    apply_umask,
    copy_model_files,
    record_quantized_modules,
    untie_word_embeddings,
)
from streamer_vllm.sharding.pattern import Place, file_name
from streamer_vllm.sharding.worker_errors import raising_left_errors
from streamer_vllm.versions import installed_version, untied_by_checkpoint

if TYPE_CHECKING:
    from vllm.config import VllmConfig


@dataclass(frozen=True, slots=True)
class Job:
    """The model to write, and the directory to write to."""

    model: str
    out: str
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    pattern: str | None = None
    max_file_bytes: int | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    expert_parallel: bool = False
    dtype: str = "auto"
    quantization: str | None = None


def write_sharded(job: Job) -> list[str]:
    """Write the sharded checkpoint; return the names of its weight files.

    Raises:
        ConfigError: OUT is not empty, or the pattern cannot tell ranks and parts apart.
        StreamerError: a worker failed with it.
    """
    place = Place(0, job.tensor_parallel_size, 0, job.pipeline_parallel_size)
    file_name(job.pattern, place, 0)  # raise now, not after minutes of loading
    with _appearing(job.out) as directory:
        config = _load_and_write(job, directory)
        return complete_checkpoint(job, config, directory)


def complete_checkpoint(job: Job, config: VllmConfig, directory: str) -> list[str]:
    """Add the files that belong beside the workers' shards; return the shards' names.

    Args:
        job: the job that the workers were given.
        config: the configuration that vLLM made of the job.
        directory: the directory with the shards, and nothing else.

    Raises:
        ConfigError: there are no shards.
    """
    written = _weight_files(directory)
    if not written:
        raise ConfigError(
            f"no worker wrote a shard of {job.model}; is the plugin allowed by VLLM_PLUGINS?"
        )
    copy_model_files(job.model, directory, job.revision)
    if untied_by_checkpoint(config.model_config):
        untie_word_embeddings(directory)
    record_quantized_modules(directory, config.quant_config)
    write_note(directory, _made_for(job, config, written))
    return written


def _made_for(job: Job, config: VllmConfig, written: Sequence[str]) -> MadeFor:
    return MadeFor(
        format=FORMAT,
        tensor_parallel_size=job.tensor_parallel_size,
        pipeline_parallel_size=job.pipeline_parallel_size,
        expert_parallel=job.expert_parallel,
        quantization=config.model_config.quantization,
        dtype=str(config.model_config.dtype).removeprefix("torch."),
        vllm=installed_version(),
        pattern=job.pattern,
        files=tuple(written),
    )


@contextmanager
def _appearing(out: str) -> Iterator[str]:
    """A directory beside `out` that becomes `out` if all goes well, and vanishes if not."""
    out = absolute_path(out)
    if os.path.lexists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise ConfigError(f"{out} is there and not empty; name another directory or remove it")
    parent = os.path.dirname(out)
    os.makedirs(parent, exist_ok=True)
    directory = tempfile.mkdtemp(prefix=f".{os.path.basename(out)}.", dir=parent)
    try:
        yield directory
        apply_umask(directory, 0o777)  # mkdtemp makes it for the owner alone
        os.rename(directory, out)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


@contextmanager
def _local(job: Job) -> Iterator[tuple[str, str | None]]:
    """The model to give to vLLM, and the place of its weights if that is another.

    The model is always a directory, as vLLM allows only Run:ai's load formats in object stores.
    """
    if not is_remote(job.model):
        yield job.model, None
        return
    with tempfile.TemporaryDirectory(prefix="streamerd-model-") as directory:
        copy_model_files(job.model, directory, None)
        yield directory, job.model


def _load_and_write(job: Job, directory: str) -> VllmConfig:
    """Start the workers, which load and write, and stop them."""
    with _local(job) as (model, weights):
        return _run_workers(job, directory, model, weights)


def _run_workers(job: Job, directory: str, model: str, weights: str | None) -> VllmConfig:
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415  seconds to import
    from vllm.v1.executor.abstract import Executor  # noqa: PLC0415

    target = {
        "directory": directory,
        "pattern": job.pattern,
        "max_file_bytes": job.max_file_bytes,
        "weights": weights,
    }
    config = EngineArgs(
        model=model,
        revision=job.revision,
        tokenizer_revision=job.revision,
        trust_remote_code=job.trust_remote_code,
        tensor_parallel_size=job.tensor_parallel_size,
        pipeline_parallel_size=job.pipeline_parallel_size,
        enable_expert_parallel=job.expert_parallel,
        dtype=cast("Any", job.dtype),  # vLLM checks the name
        quantization=job.quantization,
        load_format=WRITER_FORMAT,
        model_loader_extra_config=target,
        enforce_eager=True,
    ).create_engine_config()
    with raising_left_errors(directory):
        executor = Executor.get_class(config)(config)
    executor.shutdown()
    return config


def _weight_files(directory: str) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in os.walk(directory)
        for name in names
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="streamerctl shard",
        description="Write a checkpoint that runai_streamer_sharded and sharded_state load: "
        "each rank's own files. Takes as many devices as ranks.",
    )
    parser.add_argument("model", metavar="MODEL", help="directory, Hugging Face id or s3://...")
    parser.add_argument("out", metavar="OUT", help="directory to make; must not hold anything")
    parser.add_argument("--tensor-parallel-size", type=int, required=True, metavar="N")
    parser.add_argument("--pipeline-parallel-size", type=int, default=1, metavar="M")
    parser.add_argument("--pattern", metavar="P", help="file names; vLLM's own by default")
    parser.add_argument(
        "--max-file-size", type=part_bytes, metavar="SIZE", help="of one part, for example 5GiB"
    )
    parser.add_argument("--revision", metavar="R")
    parser.add_argument(
        "--enable-expert-parallel", action="store_true", help="each rank holds whole experts"
    )
    parser.add_argument("--dtype", default="auto", metavar="D", help="of parameters, as vLLM's")
    parser.add_argument("--quantization", metavar="Q", help="as vLLM's")
    parser.add_argument("--trust-remote-code", action="store_true")
    return parser


def part_bytes(text: str) -> int:
    """Parse a size on the command line; argparse calls this as the type of an argument.

    Raises:
        argparse.ArgumentTypeError: the text is no size, or the size is too small for a file.
    """
    try:
        size_bytes = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if size_bytes <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size to write files of")
    return size_bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Exit codes: 0 done, 1 failed, 2 usage, 78 bad configuration."""
    options = _parser().parse_args(arguments)
    _prepare_environment()
    try:
        written = write_sharded(
            Job(
                model=options.model,
                out=options.out,
                tensor_parallel_size=options.tensor_parallel_size,
                pipeline_parallel_size=options.pipeline_parallel_size,
                pattern=options.pattern,
                max_file_bytes=options.max_file_size,
                revision=options.revision,
                trust_remote_code=options.trust_remote_code,
                expert_parallel=options.enable_expert_parallel,
                dtype=options.dtype,
                quantization=options.quantization,
            )
        )
    except ConfigError as error:
        return _failed(error, os.EX_CONFIG)
    except StreamerError as error:
        return _failed(error, 1)
    print(f"{options.out}: {len(written)} shard files")  # noqa: T201  a program's own answer
    return 0


def _failed(error: Exception, code: int) -> int:
    print(f"streamerctl shard: {error}", file=sys.stderr)  # noqa: T201  a program's own answer
    return code


def _prepare_environment() -> None:
    """Set variables that the workers need and the user did not set, before vLLM is imported."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # checked at start; no cache is made
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # ranks may outnumber NUMA nodes
    os.environ[WRITER_ENV] = "1"
    if os.environ.get(MODE_ENV) == Mode.OFF:  # the workers need the plugin to write
        del os.environ[MODE_ENV]


if __name__ == "__main__":
    raise SystemExit(main())
