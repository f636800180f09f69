"""The process that brings in the sources of `prefetch` never keeps the daemon from ending."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from tests.support.in_loop import in_loop

from streamerd import start_list
from streamerd.start_list import StartList


class HeldProcess:
    """A process that was killed, and that a hanging file system keeps in the kernel."""

    killed = False

    def kill(self) -> None:
        self.killed = True

    async def wait(self) -> int:
        await asyncio.get_running_loop().create_future()
        return 0


@in_loop
async def test_one_that_a_file_system_holds_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start_list, "STOP_GRACE_S", 0.01)
    listed, held = StartList("/nowhere", (), "text"), HeldProcess()
    listed._process = cast("asyncio.subprocess.Process", held)
    async with asyncio.timeout(30):
        await listed.stop()
    assert held.killed
