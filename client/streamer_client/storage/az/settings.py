"""The settings of Azure Blob Storage in an environment, parsed once, at the edge. Pure.

| variable | meaning |
|---|---|
| `AZURE_STORAGE_ENDPOINT` | the account's blob endpoint, `https://account.blob.core.windows.net` |
| `AZURE_STORAGE_SAS_TOKEN` | the signature that each URL needs, if any |
| `STREAMER_AZURE_BEARER` | the access token that requests carry, if any |
| `STREAMER_AZURE_ANONYMOUS` | 1: no credentials, for public containers |

`environment.py` turns the user's other variables (account, key, connection string) into these.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.environment import flag, http_settings, retry_policy
from streamer_client.storage.http.retry import RetryPolicy
from streamer_client.storage.http.settings import HttpSettings
from streamer_client.storage.http.urls import check_bearer, parse_endpoint


def expiry_of(sas: str) -> dt.datetime | None:
    """The time at which a signature expires, in UTC; None if only a stored access policy has it.

    Args:
        sas: a query without its question mark.
    """
    text = parse_qs(sas).get("se", [""])[0]
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


ENDPOINT: Final = "AZURE_STORAGE_ENDPOINT"
SAS: Final = "AZURE_STORAGE_SAS_TOKEN"
BEARER: Final = "STREAMER_AZURE_BEARER"
ANONYMOUS: Final = "STREAMER_AZURE_ANONYMOUS"


@dataclass(frozen=True, slots=True)
class AzSettings:
    """The way to reach an account, and the credentials for it."""

    endpoint: str
    """The blob endpoint; it names the account in the host's name or, for Azurite, in the path."""
    sas: str = field(default="", repr=False)
    """A signature as a query without its question mark; if empty, URLs are not signed."""
    bearer: str = field(default="", repr=False)
    http: HttpSettings = field(default_factory=HttpSettings)
    policy: RetryPolicy = field(default_factory=RetryPolicy)


def az_settings(environment: Mapping[str, str]) -> AzSettings:
    """Read the variables.

    Raises:
        ConfigError: one of them is missing or malformed; the text names it.
    """
    text = environment.get(ENDPOINT, "").strip()
    if not text:
        raise ConfigError(
            "az:// sources need to know the storage account: set AZURE_STORAGE_ACCOUNT_NAME, "
            f"AZURE_STORAGE_CONNECTION_STRING or {ENDPOINT}"
        )
    anonymous = flag(environment, ANONYMOUS, default=False)
    sas = "" if anonymous else environment.get(SAS, "").strip().lstrip("?")
    if sas and "sig=" not in sas:
        raise ConfigError(
            f"{SAS}: holds no signature (sig=...); set it to all that follows the ? of a signed URL"
        )
    endpoint = parse_endpoint(ENDPOINT, text)
    bearer = "" if anonymous or sas else environment.get(BEARER, "").strip()
    if bearer:
        check_bearer(ENDPOINT, endpoint)
    return AzSettings(
        endpoint=endpoint,
        sas=sas,
        bearer=bearer,
        http=http_settings(environment),
        policy=retry_policy(environment),
    )
