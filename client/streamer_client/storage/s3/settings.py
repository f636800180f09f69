"""The settings of S3 in an environment, parsed once, at the edge. Pure.

| variable | meaning |
|---|---|
| `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` | sign with these, if any |
| `AWS_REGION`, `AWS_DEFAULT_REGION` | where the bucket is; a wrong region is corrected |
| `RUNAI_STREAMER_S3_ENDPOINT`, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` | the first one set wins |
| `RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING` | 1: bucket in the host's name, 0: in the path |
| `RUNAI_STREAMER_S3_UNSIGNED` | 1: never sign, for public buckets |
| `AWS_REQUEST_PAYER` | `requester`: the reader pays |
| `AWS_USE_FIPS_ENDPOINT`, `AWS_USE_DUALSTACK_ENDPOINT` | which of Amazon's endpoints |

Run:ai's own default for virtual addressing is 1 everywhere, and its documentation tells users of
other stores to set 0. Here it need not be set: see `endpoints.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.environment import HTTP_VARIABLES, flag, http_settings, retry_policy
from streamer_client.storage.http.retry import RetryPolicy
from streamer_client.storage.http.settings import HttpSettings
from streamer_client.storage.http.urls import parse_endpoint

DEFAULT_REGION: Final = "us-east-1"

VIRTUAL: Final = "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"
UNSIGNED: Final = "RUNAI_STREAMER_S3_UNSIGNED"
ENDPOINTS: Final = ("RUNAI_STREAMER_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
SENT_ENDPOINT: Final = "AWS_ENDPOINT_URL_S3"
"""The name under which the client sends the endpoint that it found."""
EXPLICIT: Final = "STREAMER_S3_EXPLICIT_KEYS"
"""Set when a program's own call gave access key and secret, so that no profile, file or service is
asked. This variable never leaves the process."""
PROFILES: Final = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
SECRETS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

VARIABLES: Final = (
    *("AWS_REGION", "AWS_REQUEST_PAYER", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"),
    *(VIRTUAL, UNSIGNED),
    *HTTP_VARIABLES,
)
"""The variables, besides endpoint and credentials, that are sent just as the client has them."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that sign requests. Never shown."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class S3Settings:
    """The way to reach a store, and the credentials for it."""

    keys: Keys | None = None
    """The keys; if None, requests are not signed."""
    region: str = DEFAULT_REGION
    endpoint: str = ""
    """`scheme://host[:port][/path]` without a slash at its end; if empty, Amazon's own endpoint."""
    virtual: bool | None = None
    """Whether the bucket is in the host's name; None to let `endpoints.py` decide."""
    unsigned: bool = False
    """Whether the user asked not to sign; False if merely no credentials were found."""
    requester_pays: bool = False
    fips: bool = False
    dualstack: bool = False
    http: HttpSettings = field(default_factory=HttpSettings)
    policy: RetryPolicy = field(default_factory=RetryPolicy)


def s3_settings(environment: Mapping[str, str]) -> S3Settings:
    """Read the variables.

    Raises:
        ConfigError: one of them is malformed; the text names it.
    """
    unsigned = flag(environment, UNSIGNED, default=False)
    given = environment.get(VIRTUAL, "")
    return S3Settings(
        keys=None if unsigned else _keys(environment),
        region=environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or DEFAULT_REGION,
        endpoint=_endpoint(environment),
        virtual=flag(environment, VIRTUAL, default=True) if given.strip() else None,
        unsigned=unsigned,
        requester_pays=environment.get("AWS_REQUEST_PAYER", "").strip().lower() == "requester",
        fips=flag(environment, "AWS_USE_FIPS_ENDPOINT", default=False),
        dualstack=flag(environment, "AWS_USE_DUALSTACK_ENDPOINT", default=False),
        http=http_settings(environment),
        policy=retry_policy(environment),
    )


def _keys(environment: Mapping[str, str]) -> Keys | None:
    key_id, secret, token = (environment.get(name, "").strip() for name in SECRETS)
    if bool(key_id) != bool(secret):
        present, missing = SECRETS[:2] if key_id else SECRETS[1::-1]
        raise ConfigError(f"{present} is set and {missing} is not; set both, or neither")
    return Keys(key_id, secret, token) if key_id else None


def _endpoint(environment: Mapping[str, str]) -> str:
    name = next((name for name in ENDPOINTS if environment.get(name, "").strip()), "")
    return parse_endpoint(name, environment[name]) if name else ""
