"""The endpoints of buckets agree with botocore's own rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from botocore.config import Config
from botocore.session import Session

from streamer_client.storage.s3.endpoints import bucket_url
from streamer_client.storage.s3.settings import s3_settings

REGIONS = [
    *("us-east-1", "us-west-2", "eu-central-1", "ap-southeast-5", "cn-north-1", "us-gov-west-1"),
    *("us-iso-east-1", "us-isob-east-1", "eusc-de-east-1"),
]


class NotSentError(Exception):
    """Raised once the request has been made up, since the test needs no more."""


@pytest.fixture(scope="module")
def resolve() -> Callable[..., str]:
    """botocore's endpoint for a region and for settings of the test."""
    session = Session()

    def endpoint(region: str, *, fips: bool = False, dualstack: bool = False) -> str:
        create = cast("Any", session).create_client
        client = create(
            "s3",
            region_name=region,
            aws_access_key_id="a",
            aws_secret_access_key="b",  # noqa: S106 - never sent
            config=Config(
                use_fips_endpoint=fips,
                use_dualstack_endpoint=dualstack,
                s3={"us_east_1_regional_endpoint": "regional"},
            ),
        )
        sent: list[str] = []

        def intercept(request: Any, **_others: object) -> None:
            sent.append(request.url)
            raise NotSentError

        client.meta.events.register("before-send.s3", intercept)
        with pytest.raises(NotSentError):
            client.head_object(Bucket="bucket", Key="k")
        client.close()
        return f"https://{urlsplit(sent[0]).netloc}"

    return endpoint


@pytest.mark.parametrize("region", REGIONS)
def test_amazon(region: str, resolve: Callable[..., str]) -> None:
    assert bucket_url(s3_settings({}), region, "bucket") == resolve(region)


@pytest.mark.parametrize("region", ["us-east-1", "us-gov-west-1", "ca-central-1"])
@pytest.mark.parametrize(("fips", "dualstack"), [(True, False), (False, True), (True, True)])
def test_kinds_of_endpoints(
    region: str, fips: bool, dualstack: bool, resolve: Callable[..., str]
) -> None:
    settings = s3_settings(
        {"AWS_USE_FIPS_ENDPOINT": str(fips), "AWS_USE_DUALSTACK_ENDPOINT": str(dualstack)}
    )
    assert bucket_url(settings, region, "bucket") == resolve(region, fips=fips, dualstack=dualstack)


@pytest.mark.parametrize(
    ("endpoint", "virtual", "bucket", "url"),
    [
        ("", "", "bucket", "https://bucket.s3.eu-west-1.amazonaws.com"),
        ("", "0", "bucket", "https://s3.eu-west-1.amazonaws.com/bucket"),
        ("", "", "dot.ted", "https://s3.eu-west-1.amazonaws.com/dot.ted"),
        ("", "", "Capital", "https://s3.eu-west-1.amazonaws.com/Capital"),
        ("https://storage.googleapis.com", "", "bucket", "https://storage.googleapis.com/bucket"),
        ("https://cos.example", "1", "bucket", "https://bucket.cos.example"),
        ("https://cos.example", "1", "dot.ted", "https://cos.example/dot.ted"),
        ("http://cos.example", "1", "dot.ted", "http://dot.ted.cos.example"),
        ("http://127.0.0.1:9000", "1", "bucket", "http://127.0.0.1:9000/bucket"),
        ("http://[::1]:9000", "1", "bucket", "http://[::1]:9000/bucket"),
        ("https://gateway/s3", "", "bucket", "https://gateway/s3/bucket"),
        ("https://gateway/s3", "1", "bucket", "https://bucket.gateway/s3"),
    ],
)
def test_where_the_bucket_stands(endpoint: str, virtual: str, bucket: str, url: str) -> None:
    settings = s3_settings(
        {"AWS_ENDPOINT_URL": endpoint, "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": virtual}
    )
    assert bucket_url(settings, "eu-west-1", bucket) == url
