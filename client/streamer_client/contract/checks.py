"""The rules that every field of a decoded message must keep.

Owns the checks that need the message alone. The daemon calls `check` for each message of a client
before it acts on the message, and the client for each message of the daemon. Both judge for
themselves what depends on the peer and on what is open. A rule goes by the field's name, which
means the same in every message; a field without a rule is a defect that a test finds. Pure, with a
cost in proportion to the message's length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NoReturn

import msgspec

from streamer_client.contract.errors import ConfigError, ProtocolMismatch
from streamer_client.contract.handover import TOKEN_BYTES
from streamer_client.contract.layout import BlockRange, block_count
from streamer_client.contract.limits import (
    MAX_BODY_DEPTH,
    MAX_ENVIRONMENT_BYTES,
    MAX_HEARTBEAT_S,
    MAX_LOAD_BLOCKS,
    MAX_NAME_CHARACTERS,
    MAX_NUMBER,
    MAX_RANGES,
    MAX_SHARD_BLOCKS,
    MAX_SHARD_BYTES,
    MAX_SHARDS,
    MAX_SOURCE_CHARACTERS,
    MAX_TEXT_CHARACTERS,
)
from streamer_client.contract.messages import Message
from streamer_client.contract.options import LoadOptions
from streamer_client.contract.printable import printable
from streamer_client.contract.sizes import format_size

Rule = Callable[[str, object], None]
"""Called with the field's name and value; raises if the value is not allowed."""

_JSON_LEAVES: Final = (str, bool, int, float, type(None))


def check(message: Message) -> None:
    """Check every field of a message by its rule.

    Raises:
        ConfigError: a field asks for more, or for something else, than a setting may say.
        ProtocolMismatch: no client or daemon of this version sends such a value.
    """
    _check_fields(message)


def check_shards(shards: Iterable[tuple[str, int]], block_bytes: int) -> None:
    """Refuse an open whose claimed sizes would take too much work or memory.

    Args:
        shards: the name and size in bytes of each file of an open.
        block_bytes: size of the blocks that the daemon counts in.

    Raises:
        ConfigError: there are too many files, one is too long, or all together are too large.
    """
    blocks = 0
    for count, (name, size_bytes) in enumerate(shards, 1):
        if count > MAX_SHARDS:
            raise ConfigError(
                f"the source has more than {MAX_SHARDS} shards; load it in parts, by a pattern"
            )
        most_bytes = min(MAX_SHARD_BYTES, MAX_SHARD_BLOCKS * block_bytes)
        if not 0 <= size_bytes <= most_bytes:
            raise ConfigError(
                f"{printable(name)} has {size_bytes} bytes, and {format_size(most_bytes)} is the "
                "most of one shard; split it, or look whether it is a sparse file"
            )
        blocks += block_count(size_bytes, block_bytes)
        if blocks > MAX_LOAD_BLOCKS:
            raise ConfigError(
                f"the source has more than {format_size(MAX_LOAD_BLOCKS * block_bytes)}, which is "
                "the most of one load; load it in parts, by a pattern"
            )


def _check_fields(struct: msgspec.Struct) -> None:
    for name in struct.__struct_fields__:
        RULES[name](name, getattr(struct, name))


# --- rules --------------------------------------------------------------------------------------


def _number(least: int, most: int = MAX_NUMBER) -> Rule:
    def rule(name: str, value: object) -> None:
        if isinstance(value, int) and not least <= value <= most:
            _impossible(name, f"is {value}, and {least} to {most} is possible")

    return rule


def _text(most: int) -> Rule:
    def rule(name: str, value: object) -> None:
        if isinstance(value, str) and len(value) > most:
            _impossible(name, f"has {len(value)} characters, and {most} are the most")

    return rule


def _options(_name: str, value: object) -> None:
    if isinstance(value, LoadOptions):
        value.check()


def _named_source(name: str, value: object) -> None:
    """Check a path, URI or pattern; one that no system call takes is refused here."""
    if not isinstance(value, str):
        return
    if len(value) > MAX_SOURCE_CHARACTERS:
        raise ConfigError(
            f"{name} has {len(value)} characters, and {MAX_SOURCE_CHARACTERS} are the most: "
            f"{printable(value)}"
        )
    if "\0" in value:
        raise ConfigError(f"{name} holds a null, which no path or URI does: {printable(value)}")


def _sources(name: str, value: object) -> None:
    if isinstance(value, tuple):
        if len(value) > MAX_SHARDS:
            raise ConfigError(
                f"{name} names {len(value)} of them, and {MAX_SHARDS} are the most; "
                "ask in parts, or by a pattern"
            )
        for each in value:
            _named_source(name, each)


def _environment(name: str, value: object) -> None:
    """Check variables, and put neither a name nor a value into the error's text."""
    if isinstance(value, Mapping):
        size_bytes = sum(len(key.encode()) + len(each.encode()) for key, each in value.items())
        if size_bytes > MAX_ENVIRONMENT_BYTES:
            raise ConfigError(
                f"{name} has {size_bytes} bytes, and {MAX_ENVIRONMENT_BYTES} are the most; unset "
                "variables of the store's that are not needed"
            )
        if any("\0" in key or "\0" in each for key, each in value.items()):
            raise ConfigError(f"{name} holds a null, which no variable does; set it again")


def _ranges(name: str, value: object) -> None:
    if isinstance(value, tuple):
        _few(name, value, MAX_RANGES)
        for shard, start, stop in value:
            if not (0 <= shard < MAX_SHARDS and 0 <= start <= stop <= MAX_SHARD_BLOCKS):
                _impossible(name, f"holds {BlockRange(shard, start, stop)}")


def _shards(name: str, value: object) -> None:
    """Check a client's numbers of shards, or the shards themselves that the daemon sends."""
    if isinstance(value, tuple):
        _few(name, value, MAX_SHARDS)
        for each in value:
            if isinstance(each, msgspec.Struct):
                _check_fields(each)
            elif not 0 <= each < MAX_SHARDS:
                _impossible(name, f"holds {each}")


def _findings(name: str, value: object) -> None:
    if isinstance(value, tuple):
        _few(name, value, MAX_LOAD_BLOCKS)
        for each in value:
            _check_fields(each)


def _body(name: str, value: object) -> None:
    """Check that a value has only JSON's types: msgpack also has bytes, times and extensions.

    The value is walked level by level, not by recursion: the sender chose how deeply it nests.
    """
    level: list[object] = [value]
    for _ in range(MAX_BODY_DEPTH):
        below: list[object] = []
        for each in level:
            if isinstance(each, dict):
                if not all(isinstance(key, str) for key in each):
                    _impossible(name, "has a key that is no text")
                below.extend(each.values())
            elif isinstance(each, list):
                below.extend(each)
            elif not isinstance(each, _JSON_LEAVES):
                _impossible(name, f"holds a {type(each).__name__}, which JSON has not")
            elif isinstance(each, float) and not math.isfinite(each):
                _impossible(name, f"holds the number {each}, which JSON has not")
        if not below:
            return
        level = below
    _impossible(name, f"is nested more than {MAX_BODY_DEPTH} levels deep")


def _heartbeat(name: str, value: object) -> None:
    """Check a number of seconds, and refuse NaN, which no comparison with a bound would find."""
    if isinstance(value, float | int) and not 0 < value <= MAX_HEARTBEAT_S:
        _impossible(name, f"is {value}, and more than 0 and at most {MAX_HEARTBEAT_S:.0f} is right")


def _token(name: str, value: object) -> None:
    if isinstance(value, bytes) and len(value) != TOKEN_BYTES:
        _impossible(name, f"has {len(value)} bytes, and {TOKEN_BYTES} are right")


def _free(_name: str, _value: object) -> None:
    """Accept every value that the field's type allows."""


def _few(name: str, value: Sequence[object], most: int) -> None:
    if len(value) > most:
        _impossible(name, f"has {len(value)} parts, and {most} are the most")


def _impossible(name: str, what: str) -> NoReturn:
    raise ProtocolMismatch(
        f"a message's {name} {what}; install the same version of streamerd on both sides"
    )


_COUNT: Final = _number(0)
_INDEX: Final = _number(0, MAX_SHARDS - 1)
_NAME: Final = _text(MAX_NAME_CHARACTERS)
_TEXT: Final = _text(MAX_TEXT_CHARACTERS)

RULES: Final[dict[str, Rule]] = {
    # who is there
    "request_id": _number(-1),
    "load": _COUNT,
    "protocol": _COUNT,
    "version": _NAME,
    "pid": _number(0, 2**31 - 1),
    "world": _COUNT,
    "proof": _token,
    "transfer": _COUNT,
    "label": _TEXT,  # cut to MAX_LABEL_CHARACTERS when it is taken
    "heartbeat_s": _heartbeat,
    # what is asked for
    "source": _named_source,
    "sources": _sources,
    "files": _sources,
    "pattern": _named_source,
    "want": _free,
    "options": _options,
    "pin": _free,
    "against_source": _free,
    "limit_bytes": _number(-1),
    "environment": _environment,
    # blocks and shards
    "ranges": _ranges,
    "granted": _ranges,
    "shards": _shards,
    "shard": _INDEX,
    "block": _number(0, MAX_SHARD_BLOCKS),
    "start": _COUNT,
    "stop": _COUNT,
    "block_bytes": _number(1),
    "size_bytes": _number(0, MAX_SHARD_BYTES),
    "held": _free,
    "uri": _named_source,
    "ids": _sources,
    "identity": _named_source,
    "compared": _free,
    # what is told
    "resident_bytes": _COUNT,
    "copied_bytes": _COUNT,
    "page_cache_bytes": _COUNT,
    "direct_bytes": _COUNT,
    "needs_bytes": _COUNT,
    "available_bytes": _number(-MAX_NUMBER),
    "total_bytes": _COUNT,
    "done_bytes": _COUNT,
    "checked_bytes": _COUNT,
    "skipped_bytes": _COUNT,
    "findings": _findings,
    "code": _NAME,
    "message": _TEXT,
    "detail": _TEXT,
    "body": _body,
}
"""The rule of each field of any message, and of the structs within."""
