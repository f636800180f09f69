"""Can this user read a source? Follows the way that a load would take, up to the first bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.sizes import format_size
from streamer_client.storage.contract import Storage, StoredShard
from streamer_client.storage.registry import caller_environment, storage_for
from streamerd.cli.doctor.finding import Finding, State

READ_BYTES: Final = 4096
_KEY, _TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"
_ENDPOINT, _UNSIGNED = "AWS_ENDPOINT_URL_S3", "RUNAI_STREAMER_S3_UNSIGNED"


def check_source(source: str, environ: Mapping[str, str]) -> list[Finding]:
    """Credentials, listing and reading of one source, each step only when the one before worked."""
    try:
        variables = caller_environment(source, environ).variables()
        storage = storage_for(source, variables)
    except StreamerError as error:
        return [Finding("source", State.FAILED, str(error))]
    findings = []
    if source.startswith("s3://"):
        findings = [credentials(variables)]
    elif variables:
        # By name only: a value may be a secret.
        text = f"sent along with an open: {', '.join(sorted(variables))}"
        findings = [Finding("credentials", State.NOTE, text)]
    return findings + _read(source, storage)


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


def credentials(variables: Mapping[str, str]) -> Finding:
    """What would sign requests, and where they would go; never a secret. Pure."""
    where = variables.get(_ENDPOINT) or "the provider's own endpoint"
    if variables.get(_UNSIGNED, "0") not in ("", "0"):
        return Finding("credentials", State.OK, f"requests to {where} are not signed, as told")
    if not variables.get(_KEY):
        text = f"none found: requests to {where} are not signed"
        remedy = "for a private bucket: AWS_PROFILE, AWS_ACCESS_KEY_ID, or a role"
        return Finding("credentials", State.WARNING, text, remedy)
    kind = "temporary keys" if variables.get(_TOKEN) else "lasting keys"
    return Finding("credentials", State.OK, f"{kind} sign requests to {where}")
