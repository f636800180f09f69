"""`streamerctl evict`, `pin` and `unpin`: each sends one request and prints one line."""

from __future__ import annotations

import argparse

from streamerd.cli.request import Requester
from streamerd.cli.source_name import absolute_source, public_source
from streamerd.cli.terminal import DONE, console, one_line


def evict(arguments: argparse.Namespace) -> int:
    """Drop sources from memory. The daemon refuses a leased shard, and names who leases it."""
    with Requester(arguments.socket) as requester:
        _tell(requester.evict(*map(absolute_source, arguments.sources)) or "evicted")
    return DONE


def pin(arguments: argparse.Namespace) -> int:
    """Keep a source in memory until it is unpinned."""
    with Requester(arguments.socket) as requester:
        done = requester.pin(absolute_source(arguments.source))
        _tell(done or f"pinned {public_source(arguments.source)}")
    return DONE


def unpin(arguments: argparse.Namespace) -> int:
    """Let a source be evicted again."""
    with Requester(arguments.socket) as requester:
        done = requester.unpin(absolute_source(arguments.source))
        _tell(done or f"unpinned {public_source(arguments.source)}")
    return DONE


def _tell(done: str) -> None:
    console().print(one_line(done), soft_wrap=True)
