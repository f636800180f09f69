"""docs/protocol.md names every message and packet, and its figures are those of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

from streamer_client.connecting import connection, descriptors, link, wire
from streamer_client.contract import handover, layout, limits, messages
from streamerd.answering import cache_requests
from streamerd.answering.files import handovers
from streamerd.control import connections
from streamerd.control import descriptors as packets
from streamerd.control import socket as control
from streamerd.observe import record, report
from streamerd.reading import sources

PAGE: Final = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
MODULES: Final = (
    limits, handover, layout, messages, handovers, cache_requests, sources, packets, connections,
    control, wire, link, connection, descriptors, record, report,
)  # fmt: skip
CONSTANT: Final = re.compile(r"`([A-Z][A-Z_]+[A-Z])`")
FIGURE: Final = re.compile(r"(2\^63 - 1|[\d,]+)(?: (KiB|MiB|TiB|Ki|Mi))?")
FACTORS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "T": 1 << 40}
ELSEWHERE: Final = {"MSG_CTRUNC", "PATH"}
"""Words in capitals that are no constants of this project."""
NOT_TOLD: Final = {"HEADER_PIECE_BYTES"}
"""Bounds that no peer reaches in a conversation."""


def _value(name: str) -> object:
    (value, *others) = {getattr(module, name) for module in MODULES if hasattr(module, name)} or {
        None
    }
    assert value is not None, f"{name} is on the page and in none of the modules"
    assert not others, f"{name} has several values"
    return value


def _rows() -> Iterator[tuple[str, str]]:
    """The constants and figures in the table of bounds."""
    _, _, table = PAGE.partition("| constant | figure |")
    for line in table.partition("\n\n")[0].splitlines()[2:]:
        constants, figure = line.strip("| ").split(" | ")[:2]
        for name in CONSTANT.findall(constants):
            yield name, figure


def _number(figure: str) -> int:
    found = FIGURE.fullmatch(figure)
    assert found, figure
    digits, unit = found[1], found[2] or ""
    return 2**63 - 1 if "^" in digits else int(digits.replace(",", "")) * FACTORS[unit[:1]]


def test_every_message_and_packet_is_told() -> None:
    told = {
        *get_args(messages.ClientMessage), *get_args(messages.DaemonMessage),
        *get_args(handover.FromDaemon), *get_args(handover.FromClient),
    }  # fmt: skip
    assert {kind.__name__ for kind in told} <= set(re.findall(r"`([A-Z]\w+)`", PAGE))


def test_the_version_is_told() -> None:
    assert f"`PROTOCOL` is {messages.PROTOCOL}." in PAGE


def test_every_figure_in_the_table_is_the_constants() -> None:
    rows = dict(_rows())
    assert {name: _number(figure) for name, figure in rows.items()} == {
        name: _value(name) for name in rows
    }


def test_every_bound_is_told() -> None:
    bounds = {name for name in vars(limits) if name.isupper() and not name.startswith("_")}
    assert bounds - NOT_TOLD <= set(CONSTANT.findall(PAGE))


def test_every_constant_that_is_named_exists() -> None:
    for name in set(CONSTANT.findall(PAGE)) - ELSEWHERE:
        _value(name)
