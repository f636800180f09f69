"""What a caller sends along to have a web server's files read for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from streamer_client.storage.http.origin import origin_of
from streamer_client.storage.http.retry import retry_policy
from streamer_client.storage.http.settings import http_settings
from streamer_client.storage.http.travelling import http_variables
from streamer_client.storage.web.secrets import secrets_of


class WebEnvironment:
    """The environment of one caller; the secrets of its URL among it."""

    def __init__(self, uri: str, environ: Mapping[str, str]) -> None:
        origin_of(uri)
        self._uri = uri
        self._environ = environ

    def resolved(self) -> dict[str, str]:
        """Certificates, proxies, timeouts and secrets.

        Raises:
            ConfigError: one of the variables is malformed.
        """
        found = http_variables(self._environ)
        http_settings(found)
        retry_policy(found)
        return found | secrets_of(self._uri, self._environ).as_environment()
