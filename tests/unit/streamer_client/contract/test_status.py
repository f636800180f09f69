"""The document of `status --json`: the daemon builds it so that readers of any version
can read it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.sample_status import busy_body, empty_body

from streamer_client.contract.checks import check
from streamer_client.contract.codec import decode_daemon, encode
from streamer_client.contract.errors import ProtocolMismatch
from streamer_client.contract.messages import Status
from streamer_client.contract.status import ShardState, StatusDocument, parse_status

ORDER = (
    "version pid uptime_s socket instance memory sources waiting bandwidth_limit_bytes_per_s "
    "totals workers fleet"
)
SHARD_ORDER = (
    "id uri names slab size_bytes resident_bytes state pinned leases retries "
    "bytes_per_s eta_s error"
)


def over_the_wire(document: StatusDocument) -> dict[str, Any]:
    message = decode_daemon(encode(Status(1, document.body())))
    check(message)
    assert isinstance(message, Status)
    return message.body


def test_the_json_that_users_see_is_the_document_as_it_was_built() -> None:
    body = over_the_wire(parse_status(busy_body()))
    assert body == busy_body()
    assert " ".join(body) == ORDER
    assert " ".join(body["sources"][0]["shards"][0]) == SHARD_ORDER


def test_numbers_keep_their_kind() -> None:
    text = json.dumps(over_the_wire(parse_status(busy_body())))
    assert '"bytes_per_s": 3214000000.0' in text
    assert '"consumed_bytes": 0' in text


def test_a_state_is_told_as_its_word() -> None:
    body = empty_body() | {"sources": busy_body()["sources"]}
    (_, second, *_), _ = (source["shards"] for source in body["sources"])
    assert json.dumps(second["state"]) == f'"{ShardState.STREAMING}"'


def test_a_reader_passes_over_what_a_newer_daemon_tells() -> None:
    body = busy_body() | {"numa": {"nodes": 2}}
    body["sources"][0]["shards"][0] |= {"state": "compressed", "heat": 3}
    status = parse_status(body)
    assert status.sources[0].shards[0].state == "compressed"


def test_a_reader_does_without_what_was_added_later() -> None:
    body = empty_body()
    for name in ("workers", "bandwidth_limit_bytes_per_s"):
        del body[name]
    del body["memory"]["lingering_bytes"], body["totals"]["lost_threads"]
    status = parse_status(body)
    assert (status.workers, status.memory.lingering_bytes, status.totals.lost_threads) == ((), 0, 0)


def test_shards_are_found_by_their_ids() -> None:
    status = parse_status(busy_body())
    ids = [shard.id for source in status.sources for shard in source.shards]
    assert list(status.shards()) == ids


@pytest.mark.parametrize(("name", "value"), [("pid", "4242"), ("memory", {}), ("waiting", None)])
def test_a_body_of_another_shape_is_a_mismatch(name: str, value: object) -> None:
    with pytest.raises(ProtocolMismatch, match=f"{name}.*install the same version"):
        parse_status(busy_body() | {name: value})
