"""Parses Azure's connection strings. Pure.

https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from streamer_client.contract.errors import ConfigError

VARIABLE: Final = "AZURE_STORAGE_CONNECTION_STRING"

DEFAULT_SUFFIX: Final = "core.windows.net"


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """The parts of a connection string; a part that is missing there is empty."""

    endpoint: str
    account: str = ""
    key: str = field(default="", repr=False)
    sas: str = field(default="", repr=False)


def connection_string(text: str) -> ConnectionString:
    """Parse a connection string.

    Raises:
        ConfigError: `text` is no connection string, or names no account. The error does not repeat
            the text, because it may hold a key.
    """
    fields = _fields(text)
    account = fields.get("accountname", "")
    endpoint = fields.get("blobendpoint", "")
    if not endpoint and account:
        scheme = fields.get("defaultendpointsprotocol", "https")
        suffix = fields.get("endpointsuffix", DEFAULT_SUFFIX)
        endpoint = f"{scheme}://{account}.blob.{suffix}"
    if not endpoint:
        raise ConfigError(
            f"{VARIABLE}: names neither AccountName nor BlobEndpoint; copy the whole connection "
            "string"
        )
    return ConnectionString(
        endpoint,
        account,
        fields.get("accountkey", ""),
        fields.get("sharedaccesssignature", "").lstrip("?"),
    )


def _fields(text: str) -> dict[str, str]:
    fields = {}
    for part in text.strip().strip(";").split(";"):
        name, found, value = part.partition("=")
        if not found:
            raise ConfigError(
                f"{VARIABLE}: is not a list of Name=value pairs with semicolons between; copy the "
                "whole connection string, in quotes"
            )
        fields[name.strip().lower()] = value.strip()
    if fields.get("usedevelopmentstorage", "").lower() == "true":
        raise ConfigError(
            f"{VARIABLE}: says UseDevelopmentStorage and nothing more; write the emulator's whole "
            "connection string (AccountName, AccountKey, BlobEndpoint)"
        )
    return fields
