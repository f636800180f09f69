"""The account of a load's blocks: those that it still lacks, and when it tells the daemon of
consumed ones.
"""

from __future__ import annotations

import pytest

from streamer_client.contract.layout import BlockRange
from streamer_client.delivery.block_account import MOST_GIVEN_BACK_BLOCKS, BlockAccount


def window(*, wants_all: bool = False) -> BlockAccount:
    """Two shards of four blocks, neither held."""
    return BlockAccount((4, 4), (False, False), wants_all=wants_all)


def held() -> BlockAccount:
    return BlockAccount((4, 4), (True, True))


def grant(account: BlockAccount, *ranges: tuple[int, int, int]) -> None:
    for one in ranges:
        account.grant(*one)
    account.update_lacking()


def test_what_the_open_wanted_is_lacking_until_it_is_granted() -> None:
    account = window(wants_all=True)
    assert account.lacking
    grant(account, (0, 0, 4), (1, 0, 3))
    assert account.has(0, 0, 4)
    assert account.lacking
    grant(account, (1, 3, 4))
    assert not account.lacking


def test_what_is_granted_already_is_not_wanted_again() -> None:
    account = window(wants_all=True)
    grant(account, (0, 0, 3))
    account.want([BlockRange(0, 2, 4)])
    assert account.lacking
    grant(account, (0, 3, 4))
    assert not account.lacking
    assert account.has(0, 0, 4)


def test_a_window_is_idle_when_all_that_was_wanted_was_consumed() -> None:
    account = window()
    assert account.idle()
    account.want([BlockRange(1, 0, 2)])
    assert not account.idle()
    grant(account, (1, 0, 2))
    account.consume(1, 0, 1)
    assert not account.idle()
    account.consume(1, 1, 2)
    assert account.idle()


def test_what_is_held_is_always_idle() -> None:
    account = held()
    grant(account, (0, 0, 4))
    assert account.idle()


def test_a_held_shard_gives_nothing_back() -> None:
    account = held()
    grant(account, (0, 0, 4))
    account.want([BlockRange(1, 0, 1)])
    assert not account.consume(0, 0, 1)
    assert account.take_consumed() == ()
    assert account.has(0, 0, 4)


def test_consumed_blocks_are_told_at_once_while_others_are_lacking() -> None:
    account = window(wants_all=True)
    grant(account, (0, 0, 4))
    assert account.consume(0, 0, 1)
    assert account.take_consumed() == (BlockRange(0, 0, 1),)
    assert account.take_consumed() == ()


def test_they_are_told_in_bundles_where_nothing_is_lacking() -> None:
    blocks = 16 * MOST_GIVEN_BACK_BLOCKS
    account = BlockAccount((blocks,), (False,), wants_all=True)
    grant(account, (0, 0, blocks))
    told = [account.consume(0, block, block + 1) for block in range(MOST_GIVEN_BACK_BLOCKS)]
    assert told == [False] * (MOST_GIVEN_BACK_BLOCKS - 1) + [True]


def test_wanting_nothing_leaves_what_is_granted() -> None:
    account = window(wants_all=True)
    grant(account, (0, 0, 2))
    account.want(())
    assert account.has(0, 0, 2)
    assert not account.lacking
    assert account.take_consumed() == ()


def test_all_others_come_after_the_first() -> None:
    account = held()
    grant(account, (0, 0, 2))
    assert account.all_after([BlockRange(1, 3, 4)]) == (
        BlockRange(1, 3, 4),
        BlockRange(0, 2, 4),
        BlockRange(1, 0, 3),
    )


def test_a_silent_daemon_may_release_what_is_not_held() -> None:
    account = BlockAccount((2, 2), (True, False), wants_all=True)
    grant(account, (0, 0, 2), (1, 0, 2))
    account.forget()
    assert account.has(0, 0, 2)
    assert not account.has(1, 0, 1)


@pytest.mark.parametrize(("shard", "stop", "inside"), [(0, 4, True), (0, 5, False), (2, 1, False)])
def test_blocks_that_the_load_does_not_have(shard: int, stop: int, inside: bool) -> None:
    assert window().lies_in(shard, stop) is inside
