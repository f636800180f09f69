"""A client of the daemon inside the booted machine: `member.py USER`, steered by lines on stdin.

`load DIR` opens it, answers `begun` after the first tensor, waits for another line, reads the rest
and answers `done` with JSON: the way it took and digests. Imports as root what
the user may not reach.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import pwd
import sys

import torch  # noqa: F401 - here, while this is root

import streamer_client
from streamer_client import checkpoint, launch  # noqa: F401
from streamer_client.copy import engines  # noqa: F401
from streamer_client.delivery import (
    daemon_feed,  # noqa: F401
    direct_feed,  # noqa: F401
)


def become(user: str) -> None:
    codecs.lookup("ascii")  # This imports the module of the codec, as root, like the imports above.
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def load(source: str) -> None:
    digests: dict[str, str] = {}
    with streamer_client.connect(label="member") as client, client.open(source) as opened:
        for name, tensor in opened.tensors():
            if not digests:
                say("begun")
                sys.stdin.readline()
            digests[name] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        mode = opened.stats.mode
    say("done " + json.dumps({"mode": mode, "digests": digests}))


def main() -> None:
    become(sys.argv[1])
    say("ready")
    for line in sys.stdin:
        try:
            load(line.split()[1])
        except streamer_client.StreamerError as error:
            say(f"failed {error}")


main()
