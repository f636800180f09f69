"""The two programs' command lines as plain values, for pages and completions made from them.

Owns reading argparse's parsers; what is written from it is left to `make_man_pages.py` and
`make_completions.py`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from streamerd.cli.arguments import control_parser
from streamerd.settings.arguments import daemon_parser


@dataclass(frozen=True, slots=True)
class Option:
    """A flag, or a positional argument when `flags` is empty."""

    flags: tuple[str, ...]
    metavar: str
    """Empty for a switch."""
    help: str
    optional: bool = True
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A program or one of its subcommands."""

    name: str
    help: str
    options: tuple[Option, ...]
    example: str = ""

    @property
    def flags(self) -> tuple[Option, ...]:
        return tuple(option for option in self.options if option.flags)

    @property
    def operands(self) -> tuple[Option, ...]:
        return tuple(option for option in self.options if not option.flags)


def daemon() -> Command:
    """`streamerd`."""
    return _command("streamerd", daemon_parser(full=True))


def control() -> tuple[Command, tuple[Command, ...]]:
    """`streamerctl` itself, and its subcommands in the order of its help."""
    parser = control_parser()
    (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    commands = tuple(_command(name, sub) for name, sub in subparsers.choices.items())
    return _command("streamerctl", parser), commands


def _command(name: str, parser: argparse.ArgumentParser) -> Command:
    options = tuple(
        _option(action)
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction) and action.help != argparse.SUPPRESS
    )
    _, marked, example = (parser.epilog or "").partition("example:\n")
    return Command(name, parser.description or "", options, example.strip() if marked else "")


def _option(action: argparse.Action) -> Option:
    switch = action.nargs == 0
    metavar = "" if switch else str(action.metavar or action.dest.upper())
    return Option(
        flags=tuple(action.option_strings),
        metavar=metavar,
        help=_sentence(action.help or ""),
        optional=not action.required,
        repeats=action.nargs in ("*", "+"),
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
