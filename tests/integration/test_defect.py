"""A daemon that meets a defect of its own stops, because its account of memory may be wrong."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from streamer_client.contract.errors import StreamerError
from streamerd.control.instance import Instance
from streamerd.daemon import Daemon
from streamerd.settings.arguments import daemon_parser, overrides_of
from streamerd.settings.config import load_settings
from streamerd.state import events
from streamerd.state.events import FailureKind, ShardKey
from tests.support.in_loop import in_loop, until


@in_loop
async def test_an_impossible_event_ends_the_daemon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    socket = str(tmp_path / "s")
    arguments = daemon_parser().parse_args(["--socket", socket, "--memory-limit", "16MiB"])
    settings, origins = load_settings(overrides_of(arguments), {}, os.devnull)
    with Instance.of(socket) as instance:
        daemon = Daemon(arguments, settings, origins, instance)
        running = asyncio.ensure_future(daemon.run())
        await until(lambda: os.path.exists(socket))
        nowhere = ShardKey("/nowhere", "")
        lost = FailureKind.WORKER_LOST
        daemon.parts.turns.post(events.FetchFailed(0.0, nowhere, 0, lost, "internal", ""))
        with pytest.raises(StreamerError, match="stopped by a defect"):
            await running
    assert "KeyError" in caplog.text
    assert not os.path.exists(socket)  # noqa: ASYNC240  nothing else runs in this loop
