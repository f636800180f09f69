"""Whatever value a variable has: it is read, or refused by an error that names the mistake.

Nothing is connected to. Values that Run:ai 0.17 refuses may be refused here. Where Run:ai goes on
and this package does not, docs/runai-compatibility.md says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from streamer_client.contract.errors import StreamerError
from streamer_client.delivery.concurrency import chunk_bytes
from streamer_client.runai.distributed_streamer.distributed_streamer import (
    broadcast_timeout,
    ends_together,
)
from streamer_client.runai.log_settings import configure_logging
from streamer_client.runai.settings import concurrency, memory_limit
from streamer_client.storage.gs.settings import gs_settings
from streamer_client.storage.s3.environment import S3Environment
from streamerd.settings.config import load_settings

RUNAI = (Path(__file__).parents[3] / "support/runai_0_17_variables.txt").read_text().split()
AWS = [
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
    *("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    *("AWS_ENDPOINT_URL_S3", "AWS_MAX_ATTEMPTS", "AWS_REQUEST_PAYER", "AWS_RETRY_MODE"),
    *("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_METADATA_SERVICE_TIMEOUT"),
]
HUGE = "9" * 20
VALUES = ("", "0", "-1", "1.5", "x", HUGE, "true")

NO_NUMBER = {"1.5", "x", "true"}
ALL_BUT_NOTHING = set(VALUES) - {""}
NO_FLAG = {"-1", "1.5", "x", HUGE}
REFUSED: Mapping[str, set[str]] = {
    "RUNAI_STREAMER_CONCURRENCY": ALL_BUT_NOTHING,
    "RUNAI_STREAMER_OBJ_CONCURRENCY": ALL_BUT_NOTHING,
    "RUNAI_STREAMER_CHUNK_BYTESIZE": ALL_BUT_NOTHING - {HUGE},
    "RUNAI_STREAMER_MEMORY_LIMIT": NO_NUMBER,
    "RUNAI_STREAMER_DIST": ALL_BUT_NOTHING - {"0"},
    "RUNAI_STREAMER_DIST_TIMEOUT": NO_NUMBER | {"-1", HUGE},
    "RUNAI_STREAMER_S3_MAX_RETRIES": NO_NUMBER | {"-1", HUGE},
    "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS": NO_NUMBER | {"-1", HUGE},
    "RUNAI_STREAMER_S3_UNSIGNED": NO_FLAG,
    "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": NO_FLAG,
    "RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS": NO_FLAG,
    "AWS_ACCESS_KEY_ID": ALL_BUT_NOTHING,
    "AWS_SECRET_ACCESS_KEY": ALL_BUT_NOTHING,
    "AWS_PROFILE": ALL_BUT_NOTHING,
    "AWS_WEB_IDENTITY_TOKEN_FILE": ALL_BUT_NOTHING,
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": set(VALUES),
    "AWS_CA_BUNDLE": ALL_BUT_NOTHING,
    "AWS_MAX_ATTEMPTS": ALL_BUT_NOTHING,
    "AWS_USE_FIPS_ENDPOINT": NO_FLAG,
    "AWS_USE_DUALSTACK_ENDPOINT": NO_FLAG,
    "AWS_METADATA_SERVICE_TIMEOUT": NO_NUMBER | {""},
}
"""Variables that are set alone: a key without its secret and a token's file without its role are
refused."""

READS: tuple[Callable[[Mapping[str, str]], object], ...] = (
    lambda environ: concurrency(environ, "/m"),
    lambda environ: concurrency(environ, "s3://bucket/m"),
    lambda environ: memory_limit(environ, None),
    lambda environ: chunk_bytes("/m", environ),
    ends_together,
    broadcast_timeout,
    configure_logging,
    gs_settings,
)


def s3(environ: Mapping[str, str]) -> object:
    return S3Environment("s3://bucket/m", environ).resolved()


@pytest.fixture(autouse=True)
def of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable and no file of this machine is read, and none of its services is asked."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "RUNAI_", "SSL_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("variable", [*RUNAI, *AWS])
def test_each_value_is_read_or_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some values allow the metadata service; credentials keep the test from asking it.
    if variable == "AWS_EC2_METADATA_DISABLED":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    # A botocore session takes a tenth of a second, so it is made only for variables of AWS and S3.
    reads = (*READS, s3) if "AWS" in variable or "S3" in variable else READS
    refused, texts = set(), []
    for value in VALUES:
        monkeypatch.setenv(variable, value)
        for read in reads:
            try:
                read(os.environ)
            except StreamerError as error:
                refused.add(value)
                texts.append(str(error))
    assert refused == REFUSED.get(variable, set())
    assert all(text.isprintable() for text in texts)


def test_a_memory_limit_larger_than_any_memory_is_taken() -> None:
    assert memory_limit({"RUNAI_STREAMER_MEMORY_LIMIT": HUGE}, None)[0] == 2**63 - 1


@pytest.mark.parametrize("value", VALUES)
def test_none_of_them_concerns_a_daemon(value: str, tmp_path: Path) -> None:
    own = {"STREAMERD_SOCKET": str(tmp_path / "s"), "STREAMERD_MEMORY_LIMIT": "1GiB"}
    kubernetes = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_PORT"]
    theirs = dict.fromkeys([*RUNAI, *AWS, *kubernetes], value)
    assert load_settings({}, own | theirs) == load_settings({}, own)
