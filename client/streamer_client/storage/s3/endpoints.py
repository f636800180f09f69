"""The URL of an object: the endpoints of Amazon's regions, and how buckets are addressed. Pure.

The names follow Amazon's published rules (docs.aws.amazon.com/general/latest/gr/s3.html); the tests
compare them with botocore's own rules, whose resolver would cost each worker several megabytes.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from streamer_client.storage.s3.settings import S3Settings

_PARTITIONS: Final = (
    ("cn-", "amazonaws.com.cn", "amazonaws.com.cn"),
    ("us-isob-", "sc2s.sgov.gov", ""),
    ("us-isof-", "csp.hci.ic.gov", ""),
    ("eu-isoe-", "cloud.adc-e.uk", ""),
    ("us-iso-", "c2s.ic.gov", ""),
    ("eusc-", "amazonaws.eu", ""),
    ("", "amazonaws.com", "amazonaws.com"),
)
"""The beginning of a region's name, the region's domain, and the domain of its dual-stack endpoints
if it has any."""

# This matches a name that can be one label of a host's name, by the rules of DNS and certificates.
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


def store_url(settings: S3Settings, region: str) -> str:
    """The store's own URL, without a bucket."""
    return settings.endpoint or f"https://{_amazon_host(settings, region)}"


def bucket_url(settings: S3Settings, region: str, bucket: str) -> str:
    """The URL that a bucket's keys are appended to, after a slash."""
    endpoint = store_url(settings, region)
    if not virtual_addressing(settings, endpoint, bucket):
        return f"{endpoint}/{bucket}"
    scheme, _, rest = endpoint.partition("://")
    return f"{scheme}://{bucket}.{rest}"


def virtual_addressing(settings: S3Settings, endpoint: str, bucket: str) -> bool:
    """Whether the bucket stands in the host's name.

    Amazon expects it there; other stores expect it in the path unless the user says otherwise. It
    must be in the path if the bucket's name is not a single label, since no certificate covers the
    host's name then, or if the host is an IP address.
    """
    wanted = not settings.endpoint if settings.virtual is None else settings.virtual
    host = urlsplit(endpoint).hostname or ""
    label = bool(_LABEL.fullmatch(bucket)) or (
        endpoint.startswith("http://") and bool(_LABEL.fullmatch(bucket.replace(".", "-")))
    )
    return wanted and label and not _is_address(host)


def _amazon_host(settings: S3Settings, region: str) -> str:
    domain, dual = next(
        (domain, dual) for start, domain, dual in _PARTITIONS if region.startswith(start)
    )
    service = "s3-fips" if settings.fips else "s3"
    if settings.dualstack and dual:
        return f"{service}.dualstack.{region}.{dual}"
    return f"{service}.{region}.{domain}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
