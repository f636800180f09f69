"""Writes systemd/streamerd.toml, the configuration as it is installed, from the table of settings.

`make example-config` runs it; a test compares its output with the file, and reads it with every
line switched on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from streamer_client.contract.sizes import exact_size
from streamer_client.contract.socket import SYSTEM_SOCKET
from streamerd.memory.room import MemoryRoom
from streamerd.settings.table import KEYS, Context, Key

FILE: Final = Path(__file__).parents[1] / "systemd" / "streamerd.toml"

_HEAD: Final = """\
# Configuration of streamerd. Every key is here with its default, switched off: take the `#` away
# from a line to change it, then `systemctl reload streamerd` (does for memory_limit and log_level)
# or `systemctl restart streamerd`. A flag or a STREAMERD_<KEY> variable wins over this file, and
# `streamerctl config` shows what is in effect.
"""

# Defaults that depend on the machine: what stands in the example, and how the default is found.
_DEPENDS: Final = {
    "socket": (SYSTEM_SOCKET, "where the service makes it and clients look first"),
    "memory_limit": ("64GiB", "half of what the service may use, of control group and /dev/shm"),
    "workers": (1, "one for each processor, 32 at most; half as many below 8 processors"),
    "threads": (4, "16 for all workers together, 4 at most for each"),
    "block_size": ("8MiB", "16MiB from 8 processors on, else 8MiB"),
    "connections": (32, "8 for each processor, at least 32 and at most 256"),
    "socket_mode": ("0660", "0660 for the service at its place, else 0600"),
    "readonly_shm": ("", "/run/streamerd-shm where it is one"),
}


def example() -> str:
    """The whole file."""
    return _HEAD + "".join(f"\n{_entry(key)}" for key in KEYS)


def _entry(key: Key) -> str:
    value, default = _DEPENDS.get(key.name) or (_default(key), "")
    lines = [key.help[0].upper() + key.help[1:] + "."]
    if key.wants not in key.help:
        lines.append(f"Wants {key.wants}.")
    if default:
        lines.append(f"Default: {default}.")
    return "".join(f"# {line}\n" for line in lines) + f"#{key.name} = {_toml(value)}\n"


def _default(key: Key) -> object:
    value = key.default(Context({}, MemoryRoom(None, None, None)))
    return exact_size(value) if key.is_size and isinstance(value, int) else value


def _toml(value: object) -> str:
    return json.dumps(value)  # the same for strings, numbers and booleans


if __name__ == "__main__":
    FILE.write_text(example(), encoding="utf-8")
