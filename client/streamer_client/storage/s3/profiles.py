"""Settings from profiles, files and services: credentials, region, endpoint and options.

botocore finds the credentials as the AWS command line does: environment, profile, SSO, web
identity, assumed role, process, container and instance metadata. Runs in the client's process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import botocore.exceptions
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.session import Session

from streamer_client.contract.errors import ConfigError, SourceForbidden, StreamerError
from streamer_client.storage.environment import authorities_of, flag
from streamer_client.storage.s3.settings import PROFILES, SECRETS, SENT_ENDPOINT, UNSIGNED, VIRTUAL

_NO_PROFILE: Final[dict[str, Any]] = {"profile": (None, None, None, None)}
"""For a session without a profile from variables; without it botocore looks for one named ""."""


class Profiles:
    """Asks botocore; credentials that renew themselves are kept, and renewed when they are due.

    Args:
        uri: the source, for the text of errors.
        environ: all variables of the client's process. botocore itself reads `os.environ`.
    """

    def __init__(self, uri: str, environ: Mapping[str, str]) -> None:
        self._uri = uri
        self._environ = environ
        self._session: Session | None = None
        self._renewing: RefreshableCredentials | None = None

    def resolved(self, given: Mapping[str, str], endpoint: str) -> dict[str, str]:
        """The additions to the variables `given`; `endpoint` is empty if no variable names one.

        Raises:
            ConfigError: a profile, region or endpoint is malformed or unknown, or a CA bundle
                cannot be used.
            SourceForbidden: configured credentials could not be obtained; the text says why.
        """
        try:
            return self._resolved(given, endpoint)
        except (botocore.exceptions.ProfileNotFound, botocore.exceptions.ConfigParseError) as error:
            raise ConfigError(
                f"{self._uri}: {error}; correct AWS_PROFILE, or the file it should be in"
            ) from error
        except StreamerError:
            raise  # first, as a ConfigError is also a ValueError
        except ValueError as error:
            # botocore raises it for a malformed number, or for a URI whose host it would not ask.
            raise ConfigError(
                f"{self._uri}: a variable or a profile's setting of AWS makes no sense: {error}; "
                "correct it, for example AWS_CONTAINER_CREDENTIALS_FULL_URI or "
                "AWS_METADATA_SERVICE_TIMEOUT"
            ) from error
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            raise SourceForbidden(
                f"{self._uri}: credentials are configured, and could not be obtained: {error}; "
                "renew them (for example `aws sso login`), or set RUNAI_STREAMER_S3_UNSIGNED=1 for "
                "a public bucket"
            ) from error

    def _resolved(self, given: Mapping[str, str], endpoint: str) -> dict[str, str]:
        session = self._session if self._renewing else None
        if session is None:
            # A new session is made each time, because somebody may have renewed a file or variable.
            named = any(self._environ.get(name) for name in PROFILES)
            session = self._session = Session(session_vars=None if named else _NO_PROFILE)
        found = _configured(session, given, endpoint)
        bundle = str(session.get_scoped_config().get("ca_bundle", ""))
        found |= authorities_of(self._environ, profile=bundle)
        if not flag(given, UNSIGNED, default=False):
            found |= self._credentials(session)
        return {name: value for name, value in found.items() if value}

    def _credentials(self, session: Session) -> dict[str, str]:
        given = [self._environ.get(name, "") for name in SECRETS]
        if given[0] and given[1]:
            return dict(zip(SECRETS, given, strict=True))
        credentials: Credentials | None = self._renewing or session.get_credentials()
        if credentials is None:
            return {}
        if isinstance(credentials, RefreshableCredentials):
            self._renewing = credentials
        frozen = credentials.get_frozen_credentials()
        values = (frozen.access_key or "", frozen.secret_key or "", frozen.token or "")
        return dict(zip(SECRETS, values, strict=True))


def _configured(session: Session, given: Mapping[str, str], endpoint: str) -> dict[str, str]:
    """The settings of a profile, as far as no variable overrides them."""
    scoped: dict[str, Any] = session.get_scoped_config()
    s3 = scoped.get("s3")
    options: dict[str, Any] = s3 if isinstance(s3, dict) else {}
    region = given.get("AWS_REGION") or session.get_config_variable("region") or ""
    found = {
        "AWS_REGION": str(region),
        SENT_ENDPOINT: endpoint or _configured_endpoint(session, scoped),
    }
    for name, option in (
        ("AWS_USE_FIPS_ENDPOINT", scoped.get("use_fips_endpoint")),
        ("AWS_USE_DUALSTACK_ENDPOINT", scoped.get("use_dualstack_endpoint")),
        ("AWS_MAX_ATTEMPTS", scoped.get("max_attempts")),
        (VIRTUAL, {"path": "0", "virtual": "1"}.get(str(options.get("addressing_style")))),
    ):
        if option and not given.get(name):
            found[name] = str(option)
    return found


def _configured_endpoint(session: Session, scoped: Mapping[str, Any]) -> str:
    """The `endpoint_url` of the profile's services section for s3, or else of the profile."""
    if str(scoped.get("ignore_configured_endpoint_urls", "")).lower() == "true":
        return ""
    services: Mapping[str, Any] = session.full_config.get("services", {})
    section: Any = services.get(str(scoped.get("services", "")), {})
    s3: Any = section.get("s3", {}) if isinstance(section, dict) else {}
    own = s3.get("endpoint_url") if isinstance(s3, dict) else None
    return str(own or scoped.get("endpoint_url") or "")
