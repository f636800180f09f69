"""The command line of streamerctl: subcommands, their flags, and their help with an example each.

This module finds usage errors. The module of a subcommand's name carries the subcommand out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Final

from streamer_client.connecting.trust import find_socket
from streamer_client.contract.sizes import parse_size
from streamerd import __version__
from streamerd.cli import cache, config, prefetch, shard, status, verify
from streamerd.cli.doctor import run as doctor
from streamerd.cli.fleet.run import run as run_fleet
from streamerd.cli.report import run as report

Command = Callable[[argparse.Namespace], int]

_SOURCE_HELP: Final = "directory, file or URI"

_EPILOG: Final = "Exit: 0 done, 1 failed, 2 usage, 69 no daemon, 78 bad configuration."


def control_parser() -> argparse.ArgumentParser:
    """The parser of `streamerctl`; each subcommand sets `run`, the function that serves it."""
    parser = argparse.ArgumentParser(
        prog="streamerctl",
        description="Show and control this node's streamerd; `streamerctl COMMAND -h` tells more.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"streamerctl {__version__}")
    socket = argparse.ArgumentParser(add_help=False)  # so --socket may follow the command, too
    for accepts, default in ((parser, _default_socket()), (socket, argparse.SUPPRESS)):
        accepts.add_argument(
            "--socket",
            metavar="PATH",
            type=_given,
            default=default,
            help="control socket",
        )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    _add_status(commands, socket)
    _add_prefetch(commands, socket)
    _add_cache(commands, socket)
    _add_verify(commands, socket)
    _add_report(commands, socket)
    _add_fleet(commands, socket)
    _add_shard(commands)
    _add_config(commands, socket)
    _add_doctor(commands, socket)
    return parser


def _default_socket() -> str:
    return find_socket(os.environ, os.geteuid()).path


def _subcommand(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Command,
    *parents: argparse.ArgumentParser,
    help_text: str,
    example: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=f"example:\n  {example}",
        parents=parents,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_status(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], socket: argparse.ArgumentParser
) -> None:
    parser = _subcommand(
        commands,
        "status",
        status.run,
        socket,
        help_text="show memory, sources, shards, leases and totals",
        example="streamerctl status --watch",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--quiet", action="store_true", help="show nothing: exit code 0 if a daemon answers"
    )
    how.add_argument("--watch", action="store_true", help="show it every second, until Ctrl-C")


def _add_prefetch(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], socket: argparse.ArgumentParser
) -> None:
    parser = _subcommand(
        commands,
        "prefetch",
        prefetch.run,
        socket,
        help_text="bring a checkpoint into memory before any client asks",
        example="streamerctl prefetch /models/llama --pattern 'model-rank-0-*' --pin",
    )
    parser.add_argument("source", metavar="SOURCE", type=_given, help=_SOURCE_HELP)
    parser.add_argument("--pattern", metavar="P", help="only file names that match this glob")
    parser.add_argument("--pin", action="store_true", help="keep it in memory until it is unpinned")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until all is in memory")
    parser.add_argument(
        "--memory-limit",
        metavar="SIZE",
        type=_size,
        default=-1,
        help="bring in at most this much, in reading order",
    )


def _add_cache(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], socket: argparse.ArgumentParser
) -> None:
    parser = _subcommand(
        commands,
        "evict",
        cache.evict,
        socket,
        help_text="drop checkpoints from memory, unless a client leases them",
        example="streamerctl evict /models/llama",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "sources", metavar="SOURCE", nargs="*", type=_given, default=[], help=_SOURCE_HELP
    )
    which.add_argument(
        "--all", action="store_true", help="drop everything that is neither leased nor pinned"
    )
    for name, run, help_text in (
        ("pin", cache.pin, "keep a checkpoint in memory, whatever else needs room"),
        ("unpin", cache.unpin, "let a checkpoint be evicted again"),
    ):
        parser = _subcommand(
            commands,
            name,
            run,
            socket,
            help_text=help_text,
            example=f"streamerctl {name} /models/llama",
        )
        parser.add_argument("source", metavar="SOURCE", type=_given, help=_SOURCE_HELP)


def _add_verify(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], socket: argparse.ArgumentParser
) -> None:
    parser = _subcommand(
        commands,
        "verify",
        verify.run,
        socket,
        help_text="compare memory with its checksums, or with the source",
        example="streamerctl verify s3://models/llama --source",
    )
    parser.add_argument(
        *("source",),
        metavar="SOURCE",
        nargs="?",
        type=_given,
        help=f"{_SOURCE_HELP}; without one, everything in memory",
    )
    parser.add_argument(
        "--source",
        dest="against_source",
        action="store_true",
        help="read the source again and compare with that too, with this shell's credentials",
    )


def _add_fleet(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], socket: argparse.ArgumentParser
) -> None:
    parser = _subcommand(
        commands,
        "fleet",
        run_fleet,
        socket,
        help_text="show who is in this node's fleet, and what came from whom",
        example="streamerctl fleet",
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def _add_report(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], socket: argparse.ArgumentParser
) -> None:
    parser = _subcommand(
        commands,
        "report",
        report.run,
        socket,
        help_text="show the last loads: where their time went",
        example="streamerctl report --html loads.html",
    )
    parser.add_argument(
        "load", metavar="LOAD", nargs="?", type=_count, help="only this one, by its number, in full"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page for a browser")
    parser.add_argument("--trace", metavar="FILE", help="write a trace for ui.perfetto.dev")
    parser.add_argument("--json", action="store_true", help="the document itself")


def _add_shard(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _subcommand(
        commands,
        "shard",
        shard.run,
        help_text="write a checkpoint anew, with separate files for each rank",
        example="streamerctl shard /models/llama /models/llama-tp4 --tensor-parallel-size 4",
    )
    parser.usage = "streamerctl shard MODEL OUT --tensor-parallel-size N [OPTION...]"
    parser.add_argument(
        *("model",),
        metavar="MODEL",
        type=_given,
        help="checkpoint directory, Hugging Face id, or s3://...",
    )
    parser.add_argument("out", metavar="OUT", type=_given, help="directory to make")
    parser.add_argument(
        *("--tensor-parallel-size",),
        metavar="N",
        type=_count,
        required=True,
        help="ranks in each pipeline stage",
    )
    parser.add_argument(
        *("--pipeline-parallel-size",),
        metavar="M",
        type=_count,
        default=1,
        help="pipeline stages; 1 by default",
    )
    parser.add_argument("--pattern", metavar="P", help="file names, with {rank} and {part}")
    parser.add_argument(
        "--max-file-size", metavar="SIZE", type=_size, help="begin another part after this much"
    )
    parser.add_argument(
        "--enable-expert-parallel", action="store_true", help="give each rank whole experts"
    )
    parser.add_argument("--dtype", metavar="D", help="dtype of the parameters, as in vLLM")
    parser.add_argument("--quantization", metavar="Q", help="quantization, as in vLLM")


def _add_config(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], socket: argparse.ArgumentParser
) -> None:
    parser = _subcommand(
        commands,
        "config",
        config.run,
        socket,
        help_text="show the daemon's settings and where each came from",
        example="streamerctl config --json",
    )
    parser.add_argument("--json", action="store_true", help='{"key": {"value", "origin"}}')


def _add_doctor(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], socket: argparse.ArgumentParser
) -> None:
    parser = _subcommand(
        commands,
        "doctor",
        doctor.run,
        socket,
        help_text="check what usually goes wrong, and say how to mend it",
        example="streamerctl doctor s3://models/llama",
    )
    parser.add_argument(
        *("source",),
        metavar="SOURCE",
        nargs="?",
        type=_given,
        help=f"{_SOURCE_HELP}; check also that it can be read",
    )
    parser.add_argument(
        "--json", action="store_true", help='[{"check", "state", "text", "remedy"}]'
    )


def _given(text: str) -> str:
    """Refuse an empty text, which an unset variable of the shell leaves.

    An empty path would mean the working directory.
    """
    if not text:
        raise argparse.ArgumentTypeError("is empty; is a variable of the shell unset?")
    return text


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)
