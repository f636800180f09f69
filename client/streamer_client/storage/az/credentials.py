"""Makes short-lived signatures and access tokens with Azure's own libraries.

Runs in the client's process, where account keys and logins stay: only the secrets that this module
makes are sent to the daemon. The functions import azure-storage-blob or azure-identity when they
are called, so that a client which needs neither does without them.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Final

from streamer_client.contract.errors import ConfigError, SourceForbidden
from streamer_client.storage.az.settings import ANONYMOUS

SIGNATURE_LIFE: Final = dt.timedelta(hours=1)

SCOPE: Final = "https://storage.azure.com/.default"


@dataclass(frozen=True, slots=True)
class ShortLived:
    """A secret that expires."""

    secret: str = field(repr=False)
    expiry: dt.datetime
    """The end of its validity, in UTC."""


def signature(account: str, key: str, container: str, now: dt.datetime) -> ShortLived:
    """A signature that lets its holder read and list one container for an hour.

    Raises:
        ConfigError: the key is malformed; the text does not show it.
        ImportError: azure-storage-blob is not installed.
    """
    from azure.storage.blob import (  # noqa: PLC0415 - optional
        ContainerSasPermissions,
        generate_container_sas,
    )

    expiry = now + SIGNATURE_LIFE
    try:
        secret = generate_container_sas(
            account,
            container,
            account_key=key,
            permission=ContainerSasPermissions(read=True, list=True),
            expiry=expiry,
        )
    except Exception as error:  # noqa: BLE001 - of a private class: the key is no base64
        raise ConfigError(
            f"az://{container}: the key of account {account} cannot sign "
            f"({type(error).__name__}); copy all of it, with the = at its end"
        ) from None  # the library's error may quote the key
    return ShortLived(secret, expiry)


def token(uri: str) -> ShortLived:
    """An access token from DefaultAzureCredential: variables, workload or managed identity, logins.

    Raises:
        SourceForbidden: no credential gives a token; the text lists those that were tried.
        ImportError: azure-identity is not installed.
    """
    from azure.core.exceptions import AzureError  # noqa: PLC0415 - optional
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - optional

    try:
        with DefaultAzureCredential() as credential:
            found = credential.get_token(SCOPE)
    except (AzureError, ValueError) as error:
        raise SourceForbidden(
            f"{uri}: no access token could be obtained: {_tried(error)}; give an identity (for "
            "example `az login`, or AZURE_CLIENT_ID), AZURE_STORAGE_SAS_TOKEN or "
            f"AZURE_STORAGE_ACCOUNT_KEY, or set {ANONYMOUS}=1 for a public container"
        ) from error
    return ShortLived(found.token, dt.datetime.fromtimestamp(found.expires_on, dt.UTC))


def _tried(error: Exception) -> str:
    """The credentials that azure-identity tried, in one line, without links and repetitions."""
    lines = [line.strip() for line in str(error).splitlines() if ": " in line]
    return "; ".join(lines)[:1000] or type(error).__name__
