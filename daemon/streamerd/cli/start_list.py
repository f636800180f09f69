"""`python -m streamerd.cli.start_list SOCKET FORMAT`: asks a daemon to bring in a list of sources.

The daemon itself starts this program (`streamerd/start_list.py`), with the sources of its setting
`prefetch`. The program reads the list from stdin to its end, which comes when the daemon's sockets
are open. It asks for one source after the other, and logs each that is refused. It does not wait
until the bytes are there: the daemon goes on by itself.
"""

from __future__ import annotations

import logging
import sys

import msgspec

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.registry import public_uri
from streamerd.cli.request import Requester
from streamerd.log_lines import stderr_handler
from streamerd.settings.values import Prefetched

logger = logging.getLogger("streamerd.start_list")


def bring_in(socket_path: str, wanted: tuple[Prefetched, ...]) -> int:
    """Ask for each source; returns how many were refused.

    Raises:
        StreamerError: there is no daemon to ask.
    """
    refused = 0
    with Requester(socket_path) as requester:
        for each in wanted:
            try:
                requester.prefetch(each.source, each.pattern, pin=each.pin)
            except StreamerError as error:
                refused += 1
                source = public_uri(each.source)
                logger.error("event=prefetch_at_start_refused source=%s error=%s", source, error)
    return refused


def main() -> int:
    """Serve one list."""
    _, socket_path, log_format = sys.argv
    form = "%(levelname)s %(name)s %(message)s"
    logging.basicConfig(handlers=[stderr_handler(form, log_format)])
    wanted = msgspec.json.decode(sys.stdin.buffer.read() or b"[]", type=tuple[Prefetched, ...])
    if not wanted:
        return 0  # the daemon ended before it served
    try:
        return 1 if bring_in(socket_path, wanted) else 0
    except StreamerError as error:
        logger.error("event=prefetch_at_start_failed error=%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
