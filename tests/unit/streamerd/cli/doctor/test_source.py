"""The way to a source, step by step; secrets are never told."""

from __future__ import annotations

from pathlib import Path

from tests.support.checkpoints import write_model

from streamerd.cli.doctor.finding import State
from streamerd.cli.doctor.source import check_source, credentials

SECRET = "do-not-tell"  # noqa: S105 - the tests check that it is never shown


def test_a_directory_is_listed_and_read(tmp_path: Path) -> None:
    write_model(tmp_path / "m", shards=2, blocks=1)
    listing, reading = check_source(str(tmp_path / "m"), {})
    assert listing.state is State.OK
    assert "2 shards of 128 KiB" in listing.text
    assert reading.state is State.OK


def test_what_fails_is_told_with_its_remedy_and_ends_the_way(tmp_path: Path) -> None:
    (finding,) = check_source(str(tmp_path / "nothing"), {})
    assert (finding.check, finding.state) == ("listing", State.FAILED)
    (finding,) = check_source("ftp://host/model", {})
    assert (finding.check, finding.state) == ("source", State.FAILED)
    assert "ftp" in finding.text


def test_an_empty_file_is_no_error_of_reading(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    assert check_source(str(tmp_path), {})[-1].state is State.OK


def test_credentials_are_told_by_kind() -> None:
    keys = {"AWS_ACCESS_KEY_ID": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET}
    endpoint = {"AWS_ENDPOINT_URL_S3": "https://store.example"}
    (lasting,) = credentials("s3://b/m", keys | endpoint)
    assert lasting.state is State.OK
    assert "long-term keys sign requests to https://store.example" in lasting.text
    (passing,) = credentials("S3://b/m", keys | {"AWS_SESSION_TOKEN": SECRET})
    assert "temporary keys" in passing.text
    (none,) = credentials("s3://b/m", endpoint)
    assert none.state is State.WARNING
    (unsigned,) = credentials("s3://b/m", endpoint | {"RUNAI_STREAMER_S3_UNSIGNED": "1"})
    assert unsigned.state is State.OK
    (named,) = credentials("gs://b/m", {"STREAMER_GCS_BEARER": SECRET})
    assert (named.state, named.text) == (
        State.NOTE,
        "sent along with an open: STREAMER_GCS_BEARER",
    )
    assert credentials("/models/m", {}) == []
    assert SECRET not in str(lasting)
