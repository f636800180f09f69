"""Members by etcd: each member keeps a key with an etcd lease, and lists the keys of all.

Each renewal of the etcd lease also lists the members, and this list alone counts. A watch only
wakes this node earlier, so a lost watch delays news by seconds. The library etcd3gw speaks to
etcd's HTTP gateway, which needs no gRPC threads and is the same in etcd 3.4 and later. Runs in the
thread of `book.py`.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Final

import requests
from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception
from etcd3gw.lease import Lease
from etcd3gw.watch import Watcher

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.printable import printable
from streamerd.fleet.members.bounded import BoundedSession
from streamerd.fleet.members.contract import MOST_MEMBERS, MembersFailed, is_address
from streamerd.fleet.members.own_address import reached_from
from streamerd.settings.fleet import EtcdMembers

LEASE_S: Final = 10
"""After this time without a renewal, etcd removes a member's key."""
ANSWER_S: Final = 3.0
SETTLE_S: Final = 0.5
"""Pause after a change, so that a hundred nodes which start together cause only a few listings."""
WATCH_S: Final = 15.0
"""A watch is made anew after this time, because its library does not tell when it ended. The
session also uses this as the time limit for the head of the watch's answer, for which the library
has none."""
_FAILURES: Final = (
    Etcd3Exception, requests.RequestException, OSError, ValueError, KeyError, TypeError,
)  # fmt: skip
"""Errors that etcd3gw raises: its own, those of `requests`, and those caused by an answer of
another form."""


class EtcdSource:
    """Keeps this node's key, and lists the others'.

    Args:
        where: etcd's endpoints, which are tried one after the other.
        fleet: the name of the fleet.
        listen: the address on which this node listens.
    """

    def __init__(self, where: EtcdMembers, fleet: str, listen: str) -> None:
        self._where = where
        self._listen = listen
        self._prefix = f"{where.prefix.rstrip('/')}/fleet/{fleet}/"
        self._end = self._prefix[:-1] + chr(ord(self._prefix[-1]) + 1)
        """The first key after all keys with the prefix; the end of the range to list."""
        self._endpoint = 0
        self._me = ""
        self._client: Etcd3Client | None = None
        self._lease: Lease | None = None
        self._watcher: Watcher | None = None
        self._watch_age = 0.0
        self._changed = threading.Event()
        self._gone = threading.Event()

    @property
    def me(self) -> str:
        """This node's address; empty until etcd was reached once."""
        return self._me

    def look(self) -> frozenset[str]:
        """Renew this node's lease and list the members. See `contract.Members`."""
        try:
            client = self._connected()
            self._announce(client)
            keys = self._keys(client)
            if self._watcher is None:
                self._watch(client)
        except _FAILURES as error:
            self._drop()
            host, port = self._where.endpoints[self._endpoint]
            self._endpoint = (self._endpoint + 1) % len(self._where.endpoints)
            raise MembersFailed(f"etcd at {host}:{port}: {_said(error)}") from error
        return frozenset(key for key in keys[:MOST_MEMBERS] if is_address(key))

    def wait(self, wait_s: float) -> None:
        """Wait until the time is over or the watch tells of a change; see `contract.Members`."""
        if self._changed.wait(wait_s) and not self._gone.wait(SETTLE_S):
            self._changed.clear()
        self._watch_age += wait_s
        if self._watch_age >= WATCH_S:
            self._stop_watching()

    def leave(self) -> None:
        """Remove this node's key if etcd answers, and end a call of `wait`."""
        self._gone.set()
        self._changed.set()
        lease, self._lease = self._lease, None
        if lease is not None:
            with contextlib.suppress(*_FAILURES):
                lease.revoke()
        self._stop_watching()

    # --- steps ----------------------------------------------------------------------------------

    def _connected(self) -> Etcd3Client:
        if self._client is not None:
            return self._client
        where, (host, port) = self._where, self._where.endpoints[self._endpoint]
        client = Etcd3Client(
            host,
            port,
            "https" if where.ca or where.cert else "http",
            timeout=ANSWER_S,
            session=_session(where),
        )
        if where.user:
            asked = {"name": where.user, "password": _password(where.password_file)}
            token = client.post(client.get_url("/auth/authenticate"), json=asked)["token"]
            client.session.headers["Authorization"] = token
        self._me = self._me or reached_from(self._listen, host, port)
        self._client = client
        return client

    def _announce(self, client: Etcd3Client) -> None:
        if self._gone.is_set():
            raise MembersFailed("this node leaves")
        if self._lease is not None and self._lease.refresh() > 0:
            return
        lease = client.lease(LEASE_S)
        client.put(self._prefix + self._me, "", lease)
        self._lease = lease

    def _keys(self, client: Etcd3Client) -> list[str]:
        listed = client.get(
            self._prefix,
            metadata=True,
            range_end=self._end,
            keys_only=True,
            limit=MOST_MEMBERS,
        )
        keys = [bytes(about["key"]).decode("utf-8", "replace") for _, about in listed]
        return [key.removeprefix(self._prefix) for key in keys]

    def _watch(self, client: Etcd3Client) -> None:
        self._watch_age = 0.0
        self._watcher = Watcher(
            client,
            self._prefix,
            lambda _event: self._changed.set(),
            range_end=self._end,
        )

    def _stop_watching(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()

    def _drop(self) -> None:
        """Drop the connection; the next call connects anew, perhaps to another endpoint.

        The etcd lease of this node goes on until it expires.
        """
        self._stop_watching()
        self._client = None
        self._lease = None


def _session(where: EtcdMembers) -> BoundedSession:
    session = BoundedSession(ANSWER_S, WATCH_S)
    # The environment's proxies and .netrc are meant for other hosts than etcd.
    session.trust_env = False
    if where.ca:
        session.verify = where.ca
    if where.cert:
        session.cert = where.cert, where.key
    return session


def _said(error: Exception) -> str:
    """The text of an error, with etcd's own words, which an error of etcd3gw holds elsewhere."""
    words = error.detail_text if isinstance(error, Etcd3Exception) else None
    return printable(f"{type(error).__name__}: {words or error}".strip())


def _password(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(4096).strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"password_file of fleet_members, {path}: {error}") from error
