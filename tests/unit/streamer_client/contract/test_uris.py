"""Paths and URIs, told apart."""

import pytest

from streamer_client.contract.uris import has_scheme, is_remote


@pytest.mark.parametrize(
    ("source", "scheme", "remote"),
    [
        ("/m/llama", False, False),
        ("model", False, False),
        ("./s3://odd", False, False),
        ("file:///m", True, False),
        ("FILE:///m", True, False),
        ("s3://bucket/m", True, True),
        ("https://host/m", True, True),
    ],
)
def test_schemes_and_remote_sources(source: str, scheme: bool, remote: bool) -> None:
    assert (has_scheme(source), is_remote(source)) == (scheme, remote)
