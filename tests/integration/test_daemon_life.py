"""The daemon as a process: start, signals, the one socket, the end."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually


def test_sigterm_leaves_nothing(streamerd: DaemonProcess, tmp_path: Path) -> None:
    write_model(tmp_path, shards=2, blocks=3)
    with RawClient(streamerd.socket) as client:
        client.open(str(tmp_path), hold=True).await_grants(6)
    assert len(streamerd.segments()) == 2
    assert streamerd.stop() == 0
    assert streamerd.segments() == []
    assert not os.path.exists(streamerd.socket)


def test_sigterm_while_blocks_are_on_their_way(streamerd: DaemonProcess, tmp_path: Path) -> None:
    write_model(tmp_path, shards=1, blocks=64)
    workers = streamerd.status()["workers"]
    with RawClient(streamerd.socket) as client:
        load = client.open(str(tmp_path))
        load.await_grants(2)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        load.consume(set(load.granted))
        eventually(streamerd.reads_under_way)
        assert streamerd.stop() == 0
    assert streamerd.segments() == []
    assert "Traceback" not in streamerd.log
    assert "shard failed" not in streamerd.log
