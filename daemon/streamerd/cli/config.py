"""`streamerctl config`: the running daemon's settings, and where each came from."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from streamer_client.contract.errors import ProtocolMismatch
from streamer_client.contract.messages import Json
from streamer_client.contract.sizes import format_size
from streamerd.cli.request import Requester
from streamerd.cli.terminal import DONE, console, one_line
from streamerd.settings.table import KEYS


class _Setting(msgspec.Struct, frozen=True):
    value: Any
    origin: str


def config_view(body: Json) -> Table:
    """The body of a `Config` answer as a table. Pure.

    Raises:
        ProtocolMismatch: the body does not map each name to a value and its origin.
    """
    try:
        settings = msgspec.convert(body, dict[str, _Setting])
    except msgspec.ValidationError as error:
        raise ProtocolMismatch(f"the daemon's settings are not as documented: {error}") from error
    sizes = {key.name for key in KEYS if key.is_size}
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bright_black")
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    for name, setting in settings.items():
        value = _shown(setting.value, is_size=name in sizes)
        table.add_row(*(Text(one_line(each)) for each in (name, value, setting.origin)))
    return table


def _shown(value: object, *, is_size: bool) -> str:
    if is_size and isinstance(value, int):
        return f"{value} ({format_size(value)})"
    return value if isinstance(value, str) else json.dumps(value)


def run(arguments: argparse.Namespace) -> int:
    """Ask for the settings and show them."""
    with Requester(arguments.socket) as requester:
        body = requester.config()
    if arguments.json:
        sys.stdout.write(json.dumps(body, indent=2) + "\n")
    else:
        console().print(config_view(body))
    return DONE
