"""The storage that serves each kind of source."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.az.storage import AzStorage
from streamer_client.storage.gs.storage import GsStorage
from streamer_client.storage.local import LocalStorage
from streamer_client.storage.registry import public_uri, source_environment, storage_for
from streamer_client.storage.s3.storage import S3Storage
from streamer_client.storage.web.storage import WebStorage


@pytest.mark.parametrize("uri", ["/m", "m", "./m", "file:///m", "FILE:///m", "C:/m", "a:b//c"])
def test_local(uri: str) -> None:
    assert isinstance(storage_for(uri, {}), LocalStorage)


@pytest.mark.parametrize("uri", ["s3://bucket/k", "S3://bucket"])
def test_s3(uri: str) -> None:
    assert isinstance(storage_for(uri, {}), S3Storage)


@pytest.mark.parametrize("uri", ["http://h/m", "https://h/m", "HTTPS://h/m"])
def test_web(uri: str) -> None:
    assert isinstance(storage_for(uri, {}), WebStorage)


def test_google_and_azure() -> None:
    assert isinstance(storage_for("gs://bucket/k", {}), GsStorage)
    endpoint = {"AZURE_STORAGE_ENDPOINT": "https://acc.blob.core.windows.net"}
    assert isinstance(storage_for("az://container/k", endpoint), AzStorage)
    with pytest.raises(ConfigError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        storage_for("az://container/k", {})


def test_an_unknown_scheme_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"ftp://.*file://"):
        storage_for("ftp://h/m", {})


def test_every_kind_that_is_read_says_what_travels_along() -> None:
    for uri in ("/m", "file:///m", "https://h/m"):
        assert source_environment(uri, {}).resolved() == {}
    with pytest.raises(ConfigError, match="ftp"):
        source_environment("ftp://h/m", {})


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("https://u:p@h/m?X-Amz-Signature=1&part=2", "https://h/m?part=2"),
        ("/m/u:p@h?sig=1", "/m/u:p@h?sig=1"),
        ("s3://bucket/a?sig=1", "s3://bucket/a?sig=1"),
        ("s3://bucket/a:b@c", "s3://bucket/a:b@c"),
        ("s3://arn:aws:s3:eu-1:1:accesspoint/a@b", "s3://arn:aws:s3:eu-1:1:accesspoint/a@b"),
        ("gs://bucket/a#1?token=2", "gs://bucket/a#1?token=2"),
        ("https://u:p/p@h/m#f", "https://h/m"),
    ],
)
def test_public_uri(uri: str, public: str) -> None:
    assert public_uri(uri) == public


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
@pytest.mark.parametrize(
    "rest",
    ["KEY:hush@bucket/m", "KEY:hu/sh+hush@bucket/m", "hush@bucket", "KEY:hush", "KEY:hush/x"],
)
def test_credentials_in_an_objects_uri_are_refused_and_never_repeated(
    scheme: str, rest: str
) -> None:
    uri = f"{scheme}://{rest}"
    assert "hush" not in public_uri(uri)
    assert public_uri(public_uri(uri)) == public_uri(uri)
    endpoint = {"AZURE_STORAGE_ENDPOINT": "https://acc.blob.core.windows.net"}
    with pytest.raises(ConfigError, match=r"\*\*\*.*set them as variables") as caught:
        source_environment(uri, endpoint).resolved()
    assert "hush" not in str(caught.value)
    for source, files in ((uri, None), (f"{scheme}://bucket", [uri])):
        with pytest.raises(ConfigError, match="no place in the URI") as caught:
            storage_for(source, endpoint).list_shards(source, None, files)
        assert "hush" not in str(caught.value)


def test_a_process_that_reads_files_pays_for_no_store() -> None:
    """botocore alone would take some 15 MB in every daemon."""
    program = (
        "import sys; from streamer_client.storage.registry import storage_for\n"
        "storage_for('/m', {}); assert 'http.client' not in sys.modules\n"
        "storage_for('s3://bucket/m', {}); assert 'botocore' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
