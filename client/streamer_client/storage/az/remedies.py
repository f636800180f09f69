"""The user's remedy for each error code of Azure's. Pure."""

from __future__ import annotations

from streamer_client.storage.az.settings import AzSettings
from streamer_client.storage.http.dialect import Request


def remedy(settings: AzSettings, request: Request, code: str) -> str:
    """The remedy at the end of an error's text; `code` is Azure's own word, or empty."""
    match code:
        case "ContainerNotFound":
            return "check the container's name for typing errors, and whether it is this account's"
        case "BlobNotFound":
            return "check the blob's name for typing errors"
        case "ResourceNotFound" if not settings.sas and not settings.bearer:
            return "the container may be a private one: give credentials, or check its name"
        case "AuthenticationFailed" if settings.sas:
            return (
                "the signature is not this account's: check AZURE_STORAGE_ACCOUNT_KEY, or "
                "AZURE_STORAGE_SAS_TOKEN for missing or extra characters, and this machine's clock"
            )
        case "InvalidAuthenticationInfo" | "AuthenticationFailed":
            return (
                "the token is for another tenant or service: sign in to the account's tenant "
                "(AZURE_TENANT_ID)"
            )
        case "NoAuthenticationInformation" | "PublicAccessNotPermitted":
            return "the container is not public: unset STREAMER_AZURE_ANONYMOUS"
        case "KeyBasedAuthenticationNotPermitted":
            return "the account allows no keys: unset the key, and use an identity"
        case "AuthorizationFailure" | "IpAuthorizationFailure" | "AuthorizationSourceIPMismatch":
            return (
                "the account's firewall does not allow this network, or the signature is not for "
                "this address: allow it, or read through a private endpoint "
                "(AZURE_STORAGE_ENDPOINT)"
            )
        case "BlobArchived" | "BlobBeingRehydrated":
            return "the blob is archived: set its tier to hot or cool and wait until that is done"
        case "AccountIsDisabled":
            return "the account is disabled: enable it in the portal"
        case "InvalidQueryParameterValue" | "InvalidUri" | "InvalidResourceName":
            return "no container or blob can have this name: check it for typing errors"
        case _:
            return _permission(settings, request)


def _permission(settings: AzSettings, request: Request) -> str:
    listing = "comp=list" in request.url
    if settings.sas:
        letter = "l (list)" if listing else "r (read)"
        return f"the signature lacks a permission: make it with sp={letter} for this container"
    if settings.bearer:
        return (
            "the identity lacks a permission: assign it the role Storage Blob Data Reader on the "
            "container or account (owning the account is not enough)"
        )
    level = "container" if listing else "blob"
    return f"give credentials, or set the container's public access to {level}"
