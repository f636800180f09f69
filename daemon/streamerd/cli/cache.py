"""`streamerctl evict`, `pin` and `unpin`: one request, one line of answer."""

from __future__ import annotations

import argparse

from streamer_client.contract.messages import Done, Evict, Pin, Unpin
from streamerd.cli.request import Requester
from streamerd.cli.source_name import absolute_source, public_source
from streamerd.cli.terminal import DONE, console, one_line


def evict(arguments: argparse.Namespace) -> int:
    """Drop what sources hold in memory; a leased shard is refused, its holders named."""
    sources = tuple(public_source(source) for source in arguments.sources)
    asked = tuple(absolute_source(source) for source in arguments.sources)
    with (
        Requester(arguments.socket) as requester,
        requester.handed_over(asked, optional=True) as transfer,
    ):
        _tell(requester.ask(Evict(requester.next_id(), sources, transfer), Done), "evicted")
    return DONE


def pin(arguments: argparse.Namespace) -> int:
    """Keep a source in memory until it is unpinned."""
    return _keep(arguments, Pin, "pinned")


def unpin(arguments: argparse.Namespace) -> int:
    """Let a source be evicted again."""
    return _keep(arguments, Unpin, "unpinned")


def _keep(arguments: argparse.Namespace, kind: type[Pin | Unpin], done: str) -> int:
    source = public_source(arguments.source)
    with (
        Requester(arguments.socket) as requester,
        requester.handed_over((absolute_source(arguments.source),), optional=True) as transfer,
    ):
        request = kind(requester.next_id(), source, transfer)
        _tell(requester.ask(request, Done), f"{done} {source}")
    return DONE


def _tell(done: Done, otherwise: str) -> None:
    console().print(one_line(done.detail or otherwise), soft_wrap=True)
