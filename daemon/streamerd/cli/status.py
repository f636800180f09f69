"""`streamerctl status`: asks for the status and shows it, once or again and again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Final

from rich.console import Console
from rich.live import Live

from streamer_client.contract.status import StatusDocument, parse_status
from streamerd.cli.request import Requester
from streamerd.cli.status_view import status_view
from streamerd.cli.terminal import DONE, console

WATCH_S: Final = 1.0


def asked_status(requester: Requester) -> StatusDocument:
    """The daemon's status now, typed.

    Raises:
        ProtocolMismatch: the status lacks something that this version shows.
    """
    return parse_status(requester.status())


def run(arguments: argparse.Namespace) -> int:
    """Show the status once, or until interrupted."""
    with Requester(arguments.socket) as requester:
        if arguments.watch:
            _watch(requester, as_json=arguments.json)
        elif arguments.json:
            sys.stdout.write(json.dumps(requester.status(), indent=2) + "\n")
        else:
            console().print(status_view(asked_status(requester)))
    return DONE


def _watch(requester: Requester, *, as_json: bool) -> None:
    out = console()
    try:
        if as_json or not out.is_terminal:
            _watch_lines(requester, out, as_json=as_json)
        else:
            _watch_screen(requester, out)
    except KeyboardInterrupt:
        return  # Ctrl-C is how a watch ends


def _watch_lines(requester: Requester, out: Console, *, as_json: bool) -> None:
    while True:
        body = requester.status()
        if as_json:
            sys.stdout.write(json.dumps(body) + "\n")
            sys.stdout.flush()
        else:
            out.print(status_view(parse_status(body)), "")
        time.sleep(WATCH_S)


def _watch_screen(requester: Requester, out: Console) -> None:
    with Live(console=out, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(status_view(asked_status(requester)), refresh=True)
            time.sleep(WATCH_S)
