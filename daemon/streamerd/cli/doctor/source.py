"""Tries whether this user can read a source: takes a load's steps up to the first bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.sizes import format_size
from streamer_client.storage.contract import Storage, StoredShard
from streamer_client.storage.registry import (
    credentials_report,
    source_environment,
    storage_for,
)
from streamerd.cli.doctor.finding import Finding, State

READ_BYTES: Final = 4096


def check_source(source: str, environ: Mapping[str, str]) -> list[Finding]:
    """Find credentials, list the source and read a little; a step that fails is the last."""
    try:
        environment = source_environment(source, environ).resolved()
        storage = storage_for(source, environment)
    except StreamerError as error:
        return [Finding("source", State.FAILED, str(error))]
    return credentials(source, environment) + _read(source, storage)


def _read(source: str, storage: Storage) -> list[Finding]:
    try:
        shards = storage.list_shards(source, None, None)
    except StreamerError as error:
        return [Finding("listing", State.FAILED, str(error))]
    total = format_size(sum(shard.size_bytes for shard in shards))
    listed = Finding("listing", State.OK, f"{source}: {len(shards)} shards of {total}")
    try:
        _first_bytes(storage, shards[0])
    except StreamerError as error:
        return [listed, Finding("reading", State.FAILED, str(error))]
    return [listed, Finding("reading", State.OK, f"{shards[0].uri} can be read")]


def _first_bytes(storage: Storage, shard: StoredShard) -> None:
    reader = storage.open(shard)
    try:
        buffer = memoryview(bytearray(min(READ_BYTES, shard.size_bytes)))
        if buffer:
            reader.readinto(buffer, 0)
    finally:
        reader.close()


def credentials(source: str, environment: Mapping[str, str]) -> list[Finding]:
    """The finding about a source's credentials, without their secrets; none for files."""
    report = credentials_report(source, environment)
    if report is None:
        return []
    return [Finding("credentials", State(report.state), report.text, report.remedy)]
