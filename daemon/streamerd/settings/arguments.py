"""The command line of the `streamerd` program.

This module owns flags and help text, which it makes from the table in `table.py`; `config.py`
decides the values. Runs in the main process, at start and at each reload.
"""

from __future__ import annotations

import argparse
import os

from streamerd import __version__
from streamerd.settings.config import SYSTEM_CONFIG, Settings, load_settings
from streamerd.settings.table import KEYS


def daemon_parser(*, full: bool = False) -> argparse.ArgumentParser:
    """The parser of `streamerd`: one flag for each setting, and some of its own.

    Args:
        full: whether the help shows every flag, as the man page needs; otherwise it fits a screen.
    """
    parser = argparse.ArgumentParser(
        prog="streamerd",
        usage="streamerd [--config FILE] [--KEY VALUE]...",
        description="Reads checkpoints into shared memory once for all ranks. Sizes: 64GiB, 500MB, "
        "bytes. Flags win over STREAMERD_KEY, variables over FILE. See man streamerd.",
        # Each flag and its help share a line, so that all of them fit a screen.
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=26),
    )
    parser.add_argument("--config", metavar="FILE", help=f"TOML file instead of {SYSTEM_CONFIG}")
    for key in KEYS:
        shown = key.help if full or key.in_help else argparse.SUPPRESS
        if key.type is bool:
            parser.add_argument(key.flag, action="store_true", default=None, help=shown)
        else:
            parser.add_argument(key.flag, metavar=key.metavar, help=shown)
    parser.add_argument(
        "--clean", action="store_true", help="remove the slabs of a stopped daemon, and exit"
    )
    parser.add_argument(
        "--check", action="store_true", help="read the configuration, say what is wrong, and exit"
    )
    # A program that starts a daemon passes this; the daemon writes READY to it once it serves.
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"streamerd {__version__}")
    return parser


def overrides_of(arguments: argparse.Namespace) -> dict[str, object]:
    """The settings that flags gave, by key, for `load_settings`."""
    values = {key.name: getattr(arguments, key.name) for key in KEYS}
    return {name: value for name, value in values.items() if value is not None}


def settings_of(arguments: argparse.Namespace) -> tuple[Settings, dict[str, str]]:
    """The settings of a daemon that was started with these arguments; see `load_settings`."""
    return load_settings(overrides_of(arguments), os.environ, arguments.config)
