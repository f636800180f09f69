"""Resolves the environment that a web server's files are read with.

Runs in the client's process (a vLLM rank, streamerctl), never in the daemon.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamer_client.storage.environment import http_environment, http_settings, retry_policy
from streamer_client.storage.http.urls import origin_of
from streamer_client.storage.web.secrets import secrets_of


class WebEnvironment:
    """See `SourceEnvironment`; the secrets of the URL are part of it."""

    def __init__(self, uri: str, environ: Mapping[str, str]) -> None:
        origin_of(uri)
        self._uri = uri
        self._environ = environ

    def resolved(self) -> dict[str, str]:
        """Certificates, proxies, timeouts and secrets.

        Raises:
            ConfigError: one of the variables is malformed.
        """
        found = http_environment(self._environ)
        http_settings(found)
        retry_policy(found)
        return found | secrets_of(self._uri, self._environ).as_environment()
