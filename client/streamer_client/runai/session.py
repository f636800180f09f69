"""The clients of one streamer: made when they are needed, closed when the streamer is left.

Owns which daemon or storage answers and how much it may hold at once, as the environment and the
caller's options say. One thread at a time uses it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from streamer_client.client import Client
from streamer_client.copy.feed import Feed
from streamer_client.launch import open_client
from streamer_client.runai.s3_utils.s3_utils import S3Credentials, with_credentials
from streamer_client.runai.settings import concurrency, mode

LABEL = "runai api"


class Session:
    """Opens files with the credentials of each call. For one thread."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._environ: Mapping[str, str] = {}

    def enter(self) -> None:
        """Check the variables of the environment before anything is read.

        Raises:
            ConfigError: a variable has an impossible value.
        """
        for source in ("file", "s3://"):
            concurrency(os.environ, source)

    def open(
        self,
        files: Sequence[str],
        credentials: S3Credentials | None,
        *,
        hold: bool,
        memory_limit_bytes: int,
    ) -> Feed:
        """Open files and return their feed, which the caller closes.

        Args:
            files: the files, each once, of one kind of source.
            credentials: used in place of the environment's.
            hold: whether whole shards stay resident as long as views of them live.
            memory_limit_bytes: see `Client.open`.

        Raises:
            StreamerError: the files cannot be read.
        """
        environ = with_credentials(os.environ, credentials)
        return self._connected(environ).open_feed(
            files,
            hold=hold,
            memory_limit=memory_limit_bytes,
            concurrency=concurrency(environ, files[0]),
        )

    def _connected(self, environ: Mapping[str, str]) -> Client:
        if self._client is None or self._environ != environ:
            self.close()
            self._client = open_client(mode(environ), label=LABEL, environ=environ)
            self._environ = dict(environ)
        return self._client

    def close(self) -> None:
        """Leave the daemon; tensors that were handed out stay valid. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
