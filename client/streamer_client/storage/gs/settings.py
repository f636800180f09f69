"""The settings of Google Cloud Storage in an environment, parsed once, at the edge. Pure.

| variable | meaning |
|---|---|
| `STREAMER_GCS_BEARER` | the access token that requests carry, if any |
| `STREAMER_GCS_ENDPOINT` | another endpoint than Google's, for private access |
| `GOOGLE_CLOUD_QUOTA_PROJECT` | the project that is billed, for buckets whose reader pays |
| `RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS` | 1: no credentials, for public buckets |

`environment.py` turns the user's other variables (credential files, emulators) into these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from streamer_client.storage.environment import flag, http_settings, retry_policy
from streamer_client.storage.http.retry import RetryPolicy
from streamer_client.storage.http.settings import HttpSettings
from streamer_client.storage.http.urls import check_bearer, parse_endpoint

BEARER: Final = "STREAMER_GCS_BEARER"
ENDPOINT: Final = "STREAMER_GCS_ENDPOINT"
USER_PROJECT: Final = "GOOGLE_CLOUD_QUOTA_PROJECT"
ANONYMOUS: Final = "RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS"

DEFAULT_ENDPOINT: Final = "https://storage.googleapis.com"


@dataclass(frozen=True, slots=True)
class GsSettings:
    """The way to reach the store, and the credentials for it."""

    endpoint: str = DEFAULT_ENDPOINT
    bearer: str = field(default="", repr=False)
    """The access token; if empty, requests are anonymous."""
    anonymous: bool = False
    """Whether the user asked for no credentials; False if merely none were found."""
    user_project: str = ""
    http: HttpSettings = field(default_factory=HttpSettings)
    policy: RetryPolicy = field(default_factory=RetryPolicy)


def gs_settings(environment: Mapping[str, str]) -> GsSettings:
    """Read the variables.

    Raises:
        ConfigError: one of them is malformed; the text names it.
    """
    anonymous = flag(environment, ANONYMOUS, default=False)
    endpoint = parse_endpoint(ENDPOINT, environment.get(ENDPOINT) or DEFAULT_ENDPOINT)
    bearer = "" if anonymous else environment.get(BEARER, "").strip()
    if bearer:
        check_bearer(ENDPOINT, endpoint)
    return GsSettings(
        endpoint=endpoint,
        bearer=bearer,
        anonymous=anonymous,
        user_project=environment.get(USER_PROJECT, "").strip(),
        http=http_settings(environment),
        policy=retry_policy(environment),
    )
