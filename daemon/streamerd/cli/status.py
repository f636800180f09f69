"""`streamerctl status`: asks for the status once and shows it; `watch/` keeps asking."""

from __future__ import annotations

import argparse
import json
import sys

from streamer_client.contract.status import StatusDocument, parse_status
from streamerd.cli.request import Requester
from streamerd.cli.status_view import status_view
from streamerd.cli.terminal import DONE, console
from streamerd.cli.watch.run import watch


def asked_status(requester: Requester) -> StatusDocument:
    """The daemon's status now, typed.

    Raises:
        ProtocolMismatch: the status lacks something that this version shows.
    """
    return parse_status(requester.status())


def run(arguments: argparse.Namespace) -> int:
    """Show the status, once or until interrupted, or only tell by the exit code if a daemon lives.

    A greeting tells that a daemon lives: its loop answers greetings, so a daemon that hangs does
    not.
    """
    if arguments.quiet:
        Requester(arguments.socket).close()
        return DONE
    if arguments.watch:
        watch(arguments.socket, console(), as_json=arguments.json)
        return DONE
    with Requester(arguments.socket) as requester:
        if arguments.json:
            sys.stdout.write(json.dumps(requester.status(), indent=2) + "\n")
        else:
            console().print(status_view(asked_status(requester)))
    return DONE
