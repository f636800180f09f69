"""The facts that the demo reads from vLLM's log, and the table at its end."""

from streamer_vllm.demo.run import Start, comparison
from streamer_vllm.demo.server import RankLoad, rank_loads
from streamer_vllm.session import LOADED_LINE


def line(rank: int, seconds: float) -> str:
    """A rank's log lines, in the plugin's own words."""
    told = LOADED_LINE % (
        *(0, "/models/a bytes=1 b", 79_600_000, 79_500_000, seconds, 0.32, 0, "daemon", "/s"),
    )
    return f"(Worker pid=7) INFO 11-22 23:10:01 [session.py:59] streamerd: rank={rank} {told}\n"


def test_each_ranks_load_is_found_once_and_in_order() -> None:
    log = "noise\n" + line(1, 0.643) + line(0, 0.245)
    assert rank_loads(log) == [RankLoad(0, 79_600_000, 0.245), RankLoad(1, 79_600_000, 0.643)]


def test_a_log_without_our_line_has_no_loads() -> None:
    assert rank_loads("Loading weights took 0.3 seconds\n") == []


def test_the_slowest_rank_counts() -> None:
    first = Start([RankLoad(0, 1, 0.2), RankLoad(1, 1, 0.6434)], 159_198_144, "x")
    second = Start([RankLoad(0, 1, 0.3), RankLoad(1, 1, 0.1)], 0, "x")
    assert [line.strip() for line in comparison(first, second).splitlines()] == [
        "first start      second start",
        "weights loaded in            0.643 s           0.300 s",
        "read from storage      159,198,144 B               0 B",
    ]
