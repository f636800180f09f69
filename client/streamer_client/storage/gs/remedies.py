"""The user's remedy for each refusal of Google Cloud Storage. Pure."""

from __future__ import annotations

from typing import Final

from streamer_client.storage.gs.settings import ANONYMOUS, USER_PROJECT, GsSettings
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.faults import ErrorDetail

_LOOKED: Final = (
    "no credentials were found where the request came from (RUNAI_STREAMER_GCS_CREDENTIAL_FILE, "
    "GOOGLE_APPLICATION_CREDENTIALS, gcloud's login, the metadata server), so it was anonymous: "
    "give credentials"
)


def remedy(settings: GsSettings, request: Request, told: ErrorDetail) -> str:
    """The remedy at the end of an error's text.

    Args:
        settings: the settings of the request.
        request: the request that was refused.
        told: the store's own words.
    """
    message = told.message.lower()
    if "requester pays" in message:
        return f"set {USER_PROJECT} to the project that is to be billed"
    if "bucket does not exist" in message:
        return "check the bucket's name for typing errors"
    if "billing" in message and "disabled" in message:
        return "the bucket's project has no billing account: enable one"
    if "perimeter" in message or told.code == "vpcServiceControls":
        return "VPC Service Controls refuse this network: read from inside the perimeter"
    if told.code == "notFound" or "no such object" in message:
        return "check bucket and name for typing errors"
    return _permission(settings, request)


def _permission(settings: GsSettings, request: Request) -> str:
    listing = "/o?" in request.url
    action = "storage.objects.list" if listing else "storage.objects.get"
    if settings.anonymous:
        why = f"{ANONYMOUS}=1 asks without credentials, and this needs some: unset it"
    elif not settings.bearer:
        why = _LOOKED
    else:
        why = "the credentials sent lack a permission"
    hidden = "" if listing else "; without storage.objects.list a missing object looks like this"
    return f"{why}; needed is {action} (role Storage Object Viewer){hidden}"
