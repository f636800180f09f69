"""Signs requests with botocore's own signer (AWS Signature Version 4).

Signing takes about 60 microseconds for each request of 8 MiB, so it is not worth caching. This
module is imported with the first signed request, because botocore's part costs some 10 MB of
memory.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final

from botocore.auth import EMPTY_SHA256_HASH, SIGV4_TIMESTAMP, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from streamer_client.storage.s3.settings import Keys

SERVICE: Final = "s3"


def signed_headers(
    keys: Keys,
    region: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    now: dt.datetime,
) -> dict[str, str]:
    """`headers`, together with those that sign the request.

    botocore's `add_auth` signs with this machine's time. So its parts are called here with the
    store's time instead.

    Args:
        keys: the keys to sign with.
        region: region of the bucket.
        method: GET or HEAD.
        url: the URL as it will be sent.
        headers: all headers that will be sent, except Host.
        now: the store's time, in UTC.
    """
    signer = S3SigV4Auth(Credentials(keys.access_key_id, keys.secret_access_key), SERVICE, region)
    timestamp = now.strftime(SIGV4_TIMESTAMP)
    all_headers = {**headers, "X-Amz-Date": timestamp, "X-Amz-Content-SHA256": EMPTY_SHA256_HASH}
    if keys.session_token:
        all_headers["X-Amz-Security-Token"] = keys.session_token
    request = AWSRequest(method=method, url=url, headers=all_headers)
    request.context["timestamp"] = timestamp
    to_sign = signer.string_to_sign(request, signer.canonical_request(request))
    names = signer.signed_headers(signer.headers_to_sign(request))
    all_headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={names}, "
        f"Signature={signer.signature(to_sign, request)}"
    )
    return all_headers
