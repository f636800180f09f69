"""`streamerctl evict`, `pin` and `unpin`: one request, one line of answer."""

from __future__ import annotations

import argparse

from streamer_client.contract.messages import Done, Evict, Pin, Unpin
from streamerd.cli.exit_codes import DONE
from streamerd.cli.request import Requester
from streamerd.cli.source_name import public_source
from streamerd.cli.terminal import console


def evict(arguments: argparse.Namespace) -> int:
    """Drop what sources hold in memory; a leased shard is refused, its holders named."""
    sources = tuple(public_source(source) for source in arguments.sources)
    with Requester(arguments.socket) as requester:
        _tell(requester.ask(Evict(requester.next_id(), sources), Done), "evicted")
    return DONE


def pin(arguments: argparse.Namespace) -> int:
    """Keep a source in memory until it is unpinned."""
    source = public_source(arguments.source)
    with Requester(arguments.socket) as requester:
        _tell(requester.ask(Pin(requester.next_id(), source), Done), f"pinned {source}")
    return DONE


def unpin(arguments: argparse.Namespace) -> int:
    """Let a source be evicted again."""
    source = public_source(arguments.source)
    with Requester(arguments.socket) as requester:
        _tell(requester.ask(Unpin(requester.next_id(), source), Done), f"unpinned {source}")
    return DONE


def _tell(done: Done, otherwise: str) -> None:
    console().print(done.detail or otherwise, soft_wrap=True)
