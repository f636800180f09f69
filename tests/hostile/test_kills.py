"""A few kills at seeded random points; `make soak` has three hundred."""

from __future__ import annotations

from pathlib import Path

from tests.hostile.kills import Killing
from tests.support.daemon import Daemons
from tests.support.loader import LoaderServer

KILLS = 10


def test_kills_at_random_points(
    daemon_maker: Daemons, loaders: LoaderServer, tmp_path: Path
) -> None:
    tally = Killing(3, tmp_path, daemon_maker, loaders).run(KILLS)
    assert tally.kills.total() == KILLS
    assert tally.is_right, str(tally)
    assert tally.right, "nobody survived, which shows little"
