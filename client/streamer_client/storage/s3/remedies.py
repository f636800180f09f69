"""The user's remedy for each error code of S3's. Pure."""

from __future__ import annotations

from typing import Final

from streamer_client.storage.object_uri import ObjectUri
from streamer_client.storage.s3.settings import S3Settings

EXPIRED: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
)

PASSING: Final = frozenset(
    {"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "Throttling"}
    | {"ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded"}
)
"""Codes of refusals that may pass by themselves, whatever their status (RequestTimeout has 400)."""

_LOOKED: Final = (
    "no credentials were found where the request came from (environment, profile, web identity, "
    "SSO, container and instance metadata), so it was not signed"
)


def remedy(settings: S3Settings, code: str) -> str:
    """The remedy at the end of an error's text; empty if the code alone does not tell it.

    Args:
        settings: the settings of the request.
        code: the store's own word, or empty.
    """
    match code:
        case "NoSuchBucket":
            other = (
                "" if settings.endpoint else "; a bucket of another store needs AWS_ENDPOINT_URL"
            )
            return f"check the bucket's name for typing errors{other}"
        case "NoSuchKey":
            return "check the key for typing errors"
        case "InvalidAccessKeyId":
            return (
                "this store does not know the access key id: check AWS_ACCESS_KEY_ID or the "
                "profile, and whether they belong to this endpoint"
            )
        case "SignatureDoesNotMatch":
            return (
                "the secret key does not belong to the access key id: check AWS_SECRET_ACCESS_KEY "
                "for missing or extra characters, and for a proxy that changes requests"
            )
        case "InvalidToken":
            return "AWS_SESSION_TOKEN does not belong to these keys: set all three from one source"
        case "RequestTimeTooSkewed":
            return "this machine's clock and the store's differ by minutes: set it right (NTP)"
        case "InvalidObjectState":
            return "the object is archived (Glacier): restore it, or copy it to the standard class"
        case "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraint":
            return "set AWS_REGION to the bucket's region, and no endpoint of another region"
        case "InvalidBucketName":
            return "no bucket can have this name: check it for typing errors"
        case _:
            return ""


def permission(settings: S3Settings, uri: ObjectUri, *, listing: bool) -> str:
    """Whose request was refused, and which permission is needed.

    Args:
        settings: the settings of the request.
        uri: the bucket, and the key or prefix.
        listing: whether a listing was asked for, not an object.
    """
    arn = f"arn:aws:s3:::{uri.bucket}"
    action = f"s3:ListBucket on {arn}" if listing else f"s3:GetObject on {arn}/{uri.key}"
    if settings.unsigned:
        why = "RUNAI_STREAMER_S3_UNSIGNED=1 asks without credentials, and this needs some: unset it"
    elif settings.keys is None:
        why = f"{_LOOKED}: give credentials"
    else:
        why = "the credentials sent lack a permission"
    hidden = "" if listing else "; without s3:ListBucket a missing key looks like this too"
    pays = "" if settings.requester_pays else " (AWS_REQUEST_PAYER=requester if the reader pays)"
    return f"{why}; needed is {action}{pays}{hidden}"
