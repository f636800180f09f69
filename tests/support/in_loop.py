"""Tests written as coroutines, each run to its end in a loop of its own."""

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
    """`eventually` for a test in whose loop something must go on meanwhile."""
    async with asyncio.timeout(UNTIL_S):
        while not predicate():  # noqa: ASYNC110  what is waited for tells no event
            await asyncio.sleep(POLL_S)
