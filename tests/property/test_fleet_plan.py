"""The fleet's plan under any lists, answers and deaths: every search ends, and no nodes wait in a
circle.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.fleet_simulation.__main__ import HEAD, main
from benchmarks.fleet_simulation.network import Node, Simulation, Ways
from hypothesis import given, settings
from hypothesis import strategies as st

from streamerd.fleet.plan import events
from streamerd.fleet.plan.ranking import BlockName, rank
from streamerd.fleet.plan.search import Rules, Search, View
from streamerd.fleet.plan.standing import Standing
from streamerd.fleet.plan.uploads import Give, Later, Nothing, SendTo, Uploads

NAMES = tuple(f"node-{number}" for number in range(12))
RULES = Rules(wait_s=2.0, longest_wait_s=5.0)
TICK_S = 0.01
ROOT = Path(__file__).parents[2]

some_nodes = st.frozensets(st.sampled_from(NAMES), min_size=1)
blocks = st.builds(BlockName, st.sampled_from("ab"), st.integers(0, 99), st.integers(100, 199))


@given(some_nodes, st.sampled_from(NAMES), blocks)
def test_a_node_that_comes_or_goes_moves_no_other(
    nodes: frozenset[str], other: str, block: BlockName
) -> None:
    with_it = rank(tuple(sorted(nodes | {other})), block)
    without_it = rank(tuple(sorted(nodes - {other})), block)
    assert tuple(name for name in with_it if name != other) == without_it


def test_nodes_own_about_the_same_number_of_blocks() -> None:
    owners = [rank(NAMES, BlockName("a", start, start + 1))[0] for start in range(1200)]
    assert all(60 < owners.count(name) < 140 for name in NAMES)


# --- one search -----------------------------------------------------------------------------------

answers = st.one_of(
    st.builds(events.SentElsewhere, st.just(0.0), st.sampled_from([*NAMES, "stranger"])),
    st.builds(events.NotYet, st.just(0.0), st.booleans()),
    st.builds(events.NotThere, st.just(0.0), st.booleans()),
    st.builds(events.Silent, st.just(0.0)),
    st.builds(events.Corrupt, st.just(0.0)),
    st.builds(events.Arrived, st.just(0.0)),
)


@given(some_nodes, blocks, st.data())
def test_a_search_ends_in_time_whatever_peers_answer(
    members: frozenset[str], block: BlockName, data: st.DataObject
) -> None:
    view, standing, at_s = View.of(NAMES[0], members), Standing(), 0.0
    liars: set[str] = set()
    search = Search(block, standing, RULES, at_s)
    command = search.begin(view)
    for _ in range(1000):
        match command:
            case events.Done() | events.ReadStore():
                break
            case events.Pause(wait_s):
                at_s += wait_s
                command = search.told(events.PauseOver(at_s), view)
            case events.Ask(peer, _):
                assert peer in members
                assert peer != view.me
                assert peer not in liars
                at_s += 0.1
                answer = data.draw(answers)
                if isinstance(answer, events.Corrupt):
                    liars.add(peer)
                command = search.told(_at(answer, at_s), view)
    assert isinstance(command, events.Done | events.ReadStore)
    assert at_s <= RULES.longest_wait_s + len(members) * RULES.redirects * 0.1 + 1


def _at(event: events.AnyEvent, at_s: float) -> events.AnyEvent:
    match event:
        case events.SentElsewhere(_, holder):
            return events.SentElsewhere(at_s, holder)
        case events.NotYet(_, holds):
            return events.NotYet(at_s, holds)
        case events.NotThere(_, loads_shard):
            return events.NotThere(at_s, loads_shard)
        case _:
            return type(event)(at_s)


@given(st.dictionaries(st.sampled_from(NAMES), some_nodes, min_size=1), blocks)
def test_no_lists_of_members_make_nodes_wait_in_a_circle(
    lists: dict[str, frozenset[str]], block: BlockName
) -> None:
    waits_for = {}
    for me, members in lists.items():
        view = View.of(me, members)
        search = Search(block, Standing(), RULES, 0.0)
        command = search.begin(view)
        for _ in range(len(NAMES)):
            if not isinstance(command, events.Ask):
                break
            waits_for[me] = command.peer
            command = search.told(events.NotYet(0.0, holds=False), view)
        if isinstance(command, events.ReadStore):
            waits_for.pop(me, None)
    for start in waits_for:
        seen, node = {start}, waits_for.get(start)
        while node is not None:
            assert node not in seen
            seen.add(node)
            node = waits_for.get(node)


# --- a whole fleet --------------------------------------------------------------------------------


@given(
    st.integers(1, 8), st.lists(some_nodes, min_size=8, max_size=8), st.lists(st.integers(0, 40)),
    st.lists(st.integers(0, 80), min_size=8, max_size=8),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_every_node_that_lives_gets_all_blocks(
    count: int, lists: list[frozenset[str]], deaths: list[int], starts: list[int]
) -> None:
    nodes = [
        Node(name, View.of(name, members & set(NAMES[:count])), starts_s=start * TICK_S)
        for name, members, start in zip(NAMES[:count], lists, starts, strict=False)
    ]
    for node, death in zip(nodes[1:], deaths, strict=False):
        node.dies_s = death * TICK_S
    outcome = Simulation(nodes, 20, Ways(TICK_S, RULES)).run()
    assert all(len(node.blocks) == 20 for node in outcome.nodes if not node.dead)


@given(st.integers(1, 12))
@settings(max_examples=12, deadline=None)
def test_a_fleet_that_agrees_reads_each_block_once(count: int) -> None:
    everyone = frozenset(NAMES[:count])
    nodes = [Node(name, View.of(name, everyone)) for name in sorted(everyone)]
    assert Simulation(nodes, 60, Ways(TICK_S)).run().from_store(nodes) == 1


@given(st.integers(2, 12))
@settings(max_examples=11, deadline=None)
def test_a_late_node_reads_nothing_from_the_store(count: int) -> None:
    everyone = frozenset(NAMES[:count])
    nodes = [Node(name, View.of(name, everyone)) for name in sorted(everyone)]
    nodes[0].starts_s = 200 * TICK_S
    Simulation(nodes, 60, Ways(TICK_S)).run()
    assert nodes[0].store_blocks == 0


def test_the_table_of_the_docs_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--nodes", "4", "--blocks", "10", "--cases", "well", "late"])
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert f"{head}\n{line}" == HEAD
    assert HEAD in (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    assert [row.count("|") for row in rows] == [head.count("|")] * 2


# --- standing -------------------------------------------------------------------------------------

told = st.tuples(
    st.sampled_from(["silent", "slow", "elsewhere", "lied", "answered", "helped"]),
    st.sampled_from(NAMES[:4]),
    st.sampled_from("ab"),
)


@given(st.lists(told))
def test_who_is_left_out_is_who_is_not_usable(history: list[tuple[str, str, str]]) -> None:
    standing, at_s = Standing(), 0.0
    for what, peer, shard in history:
        at_s += 1.5
        match what:
            case "silent":
                standing.silent(peer, at_s)
            case "slow":
                standing.slow(peer, at_s)
            case "elsewhere":
                standing.elsewhere(peer, shard, at_s)
            case "lied":
                standing.lied(peer)
            case "answered":
                standing.answered(peer)
            case _:
                standing.helped(peer, shard, at_s)
        for of in "ab":
            usable = {name for name in NAMES if standing.usable(name, of, at_s)}
            assert standing.out(of, at_s) == set(NAMES) - usable


# --- uploads --------------------------------------------------------------------------------------


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(NAMES[:4]), st.integers(0, 3), st.booleans())),
)
def test_uploads_stay_within_their_slots_and_send_nobody_to_itself(
    slots: int, questions: list[tuple[str, int, bool]]
) -> None:
    uploads, under_way = Uploads(slots), []
    got: set[tuple[str, BlockName]] = set()
    for peer, number, ends_one in questions:
        block = BlockName("a", number, number + 1)
        match uploads.asked(peer, block, held=number != 3, awaited=False):
            case Give():
                under_way.append((peer, block))
            case SendTo(holder):
                assert holder != peer
                assert (holder, block) in got
            case Later(holds):
                assert holds
            case Nothing():
                assert number == 3
        assert uploads.under_way == len(under_way) <= slots
        if ends_one and under_way:
            ended = under_way.pop(0)
            uploads.ended(*ended, whole=True)
            got.add(ended)
