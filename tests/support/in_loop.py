"""Runs tests written as coroutines, each to its end in its own loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec

from tests.support.waiting import POLL_S

P = ParamSpec("P")

UNTIL_S: Final = 20.0


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a plain test of a coroutine."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def until(predicate: Callable[[], object]) -> None:
    """Do as `eventually` does, but in a test whose loop must go on meanwhile."""
    async with asyncio.timeout(UNTIL_S):
        while not predicate():  # noqa: ASYNC110  what is waited for tells no event
            await asyncio.sleep(POLL_S)
