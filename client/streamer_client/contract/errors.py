"""Every error that a user of streamerd can meet.

StreamerError
├── ConfigError            a setting is wrong; fix the setting
├── SourceError            the checkpoint cannot be read as it is
│   ├── SourceNotFound     no such file, directory, bucket or key, or nothing matches the pattern
│   ├── SourceForbidden    it exists and may not be read
│   │   └── CredentialsExpired  with these credentials not any more: renew them and go on
│   ├── SourceChanged      it is no longer what it was when the load began
│   └── CorruptCheckpoint  its bytes are not valid safetensors
├── MemoryLimitError       the work does not fit the memory limit or /dev/shm
├── DaemonUnavailable      nothing answers at the socket
│   └── UntrustedSocket    somebody answers, or could, who must not be trusted; nothing was sent
├── ProtocolMismatch       the other side speaks another version
└── RequestRefused         the daemon understood and says no (leased, pinned, unknown source)

Two classes exist only where the caller's answer differs. Each carries a stable `code` that crosses
the socket, so that a failure in the daemon is raised in the client as the class it was.
"""

from __future__ import annotations

from typing import ClassVar

from streamer_client.contract.limits import MAX_TEXT_CHARACTERS
from streamer_client.contract.printable import printable


class StreamerError(Exception):
    """Base of all errors; `str()` says what happened, to which object, and what to do."""

    code: ClassVar[str] = "internal"

    def __str__(self) -> str:
        """The text in one printable line: a store's keys could hold control characters."""
        return printable(super().__str__(), MAX_TEXT_CHARACTERS)


class ConfigError(StreamerError, ValueError):
    """A setting is unknown, malformed or impossible on this machine."""

    code = "config"


class SourceError(StreamerError):
    """A checkpoint could not be read."""

    code = "source"


class SourceNotFound(SourceError):
    """The source does not exist, or nothing in it matches the pattern."""

    code = "source-not-found"


class SourceForbidden(SourceError):
    """The source exists and the reader has no permission."""

    code = "source-forbidden"


class CredentialsExpired(SourceForbidden):
    """The store says that the credentials have expired; a retry with new ones would pass."""

    code = "credentials-expired"


class SourceChanged(SourceError):
    """A file changed, shrank or vanished while it was being loaded."""

    code = "source-changed"


class CorruptCheckpoint(SourceError):
    """The bytes are not a valid safetensors file."""

    code = "corrupt-checkpoint"


class MemoryLimitError(StreamerError):
    """The request does not fit the memory limit or the shared-memory mount."""

    code = "memory-limit"


class DaemonUnavailable(StreamerError):
    """No daemon answers at the socket."""

    code = "daemon-unavailable"


class UntrustedSocket(DaemonUnavailable):
    """The listener at the socket, or somebody who could replace the socket, is not trusted."""

    code = "untrusted-socket"


class ProtocolMismatch(StreamerError):
    """Daemon and client speak different versions of the protocol."""

    code = "protocol-mismatch"


class RequestRefused(StreamerError):
    """The daemon refuses a request that it understood: leased, pinned or unknown."""

    code = "refused"


_BY_CODE: dict[str, type[StreamerError]] = {
    cls.code: cls
    for cls in (
        StreamerError,
        ConfigError,
        SourceError,
        SourceNotFound,
        SourceForbidden,
        CredentialsExpired,
        SourceChanged,
        CorruptCheckpoint,
        MemoryLimitError,
        DaemonUnavailable,
        UntrustedSocket,
        ProtocolMismatch,
        RequestRefused,
    )
}


def error_from_code(code: str, message: str) -> StreamerError:
    """Rebuild an error that crossed the socket; an unknown code becomes the base class."""
    return _BY_CODE.get(code, StreamerError)(message)
