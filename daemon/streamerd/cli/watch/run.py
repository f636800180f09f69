"""Runs a watch: asks each second, over a new connection when the daemon was started again.

This module also decides what the page shows while no daemon answers, and distinguishes a daemon
that stopped from one that died. Its calls block until the user interrupts them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from rich.console import Console
from rich.live import Live

from streamer_client.contract.errors import DaemonUnavailable
from streamer_client.contract.messages import Json
from streamer_client.contract.status import StatusDocument, parse_status
from streamerd.cli.request import Requester
from streamerd.cli.status_view import status_view
from streamerd.cli.terminal import one_line
from streamerd.cli.watch.page import watch_line, watch_page
from streamerd.cli.watch.rates import NodeRates, Rates

WATCH_S: Final = 1.0


class Seen(NamedTuple):
    """The result of asking the daemon once."""

    body: Json | None
    """The status; None if no daemon answered."""
    note: str


class Eye:
    """Asks a daemon for its status, and connects anew if the daemon was started again.

    Raises:
        StreamerError: the first time, where no daemon answers.
    """

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._requester: Requester | None = Requester(socket_path)

    def look(self) -> Seen:
        """The status now, or why there is none."""
        try:
            if self._requester is None:
                self._requester = Requester(self._socket_path)
            return Seen(self._requester.status(), "")
        except DaemonUnavailable:
            self.close()
            return Seen(None, self._what_happened())

    def _what_happened(self) -> str:
        """Say whether the daemon stopped or died: when it stops, it removes its socket."""
        where = one_line(self._socket_path)
        if os.path.exists(self._socket_path):
            return f"no daemon answers at {where}: it died or hangs; asking again each second"
        return f"the daemon at {where} has stopped; asking again each second"

    def close(self) -> None:
        """End the connection."""
        if self._requester is not None:
            self._requester.close()
            self._requester = None


def watch(socket_path: str, out: Console, *, as_json: bool) -> None:
    """Show the status until interrupted."""
    eye = Eye(socket_path)
    try:
        if as_json:
            _each_second(eye, _print_json)
        elif out.is_terminal and not out.is_dumb_terminal:
            with Live(console=out, screen=True, auto_refresh=False, vertical_overflow="crop") as on:
                _each_second(eye, _Page(out, on).show)
        else:
            _each_second(eye, _Lines(out).show)
    except KeyboardInterrupt:
        return  # an interrupt is the usual way to end a watch
    finally:
        eye.close()


def _each_second(eye: Eye, show: Callable[[Seen], None]) -> None:
    while True:
        show(eye.look())
        time.sleep(WATCH_S)


def _print_json(seen: Seen) -> None:
    if seen.body is not None:
        sys.stdout.write(json.dumps(seen.body) + "\n")
        sys.stdout.flush()


class _Page:
    """A page that replaces the one before on the screen of a terminal."""

    def __init__(self, out: Console, live: Live) -> None:
        self._out = out
        self._live = live
        self._rates = Rates()
        self._last: StatusDocument | None = None

    def show(self, seen: Seen) -> None:
        rates = NodeRates()
        if seen.body is not None:
            self._last = parse_status(seen.body)
            rates = self._rates.see(self._last, time.monotonic())
        if self._last is not None:
            page = watch_page(self._last, rates, self._out.height, seen.note)
            self._live.update(page, refresh=True)


class _Lines:
    """Output that only goes forward: a pipe gets the whole status, a dumb terminal a line."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._rates = Rates()

    def show(self, seen: Seen) -> None:
        if seen.body is None:
            self._out.print(seen.note, soft_wrap=True)
            return
        status = parse_status(seen.body)
        if self._out.is_terminal:
            rates = self._rates.see(status, time.monotonic())
            self._out.print(watch_line(status, rates), soft_wrap=True)
        else:
            self._out.print(status_view(status), "")
