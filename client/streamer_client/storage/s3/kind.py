"""Describes `s3://` to the registry. botocore is imported when an environment is resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer_client.storage.contract import (
    CredentialsReport,
    SourceEnvironment,
    SourceKind,
    Storage,
)
from streamer_client.storage.object_uri import without_user
from streamer_client.storage.s3.settings import SECRETS, SENT_ENDPOINT, UNSIGNED


def _storage(environment: Mapping[str, str]) -> Storage:
    from streamer_client.storage.s3.storage import S3Storage  # noqa: PLC0415 - HTTP and TLS, 0.1 s

    return S3Storage(environment)


def _environment(uri: str, environ: Mapping[str, str]) -> SourceEnvironment:
    from streamer_client.storage.s3.environment import S3Environment  # noqa: PLC0415 - botocore

    return S3Environment(uri, environ)


def credentials_report(environment: Mapping[str, str]) -> CredentialsReport:
    """The report on which keys would sign requests, and where the requests would go. Pure."""
    key_id, _, token = (environment.get(name) for name in SECRETS)
    where = environment.get(SENT_ENDPOINT) or "the provider's own endpoint"
    if environment.get(UNSIGNED, "0") not in ("", "0"):
        return CredentialsReport("ok", f"requests to {where} are not signed, as {UNSIGNED} says")
    if not key_id:
        text = f"none found: requests to {where} are not signed"
        remedy = "for a private bucket set AWS_PROFILE or AWS_ACCESS_KEY_ID, or use a role"
        return CredentialsReport("warn", text, remedy)
    kind = "temporary keys" if token else "long-term keys"
    return CredentialsReport("ok", f"{kind} sign requests to {where}")


KIND: Final = SourceKind(
    storage=_storage,
    environment=_environment,
    # An object's name may have ? and = in it, so no text after a ? is taken for a secret.
    public_uri=without_user,
    credentials=credentials_report,
    late_modules=("streamer_client.storage.s3.storage", "streamer_client.storage.s3.signing"),
    is_object_store=True,
)
