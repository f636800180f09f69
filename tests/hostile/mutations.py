"""Endless hostile messages and headers, always the same ones for the same seed.

Owns how they are made from golden messages: by changing bytes, by changing values, and by sending
valid messages in the wrong order. The caller decides who gets them: `bombard` takes any function
that accepts a frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final

import msgspec

from streamer_client.contract.codec import encode
from streamer_client.contract.messages import Message
from streamer_client.contract.safetensors.catalog import DTYPE_BITS
from tests.support.every_message import CLIENT
from tests.support.safetensors_files import field, with_length

Edit = Callable[[bytes, Random], bytes]

_KINDS: Final = bytes.fromhex("c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf")
"""The first bytes of msgpack's types that carry a length or a fixed value."""
_TEXTS: Final = (
    "", "\0", "/m/\0", "a\nERROR forged", "\x1b[2J", "\u202e", "../" * 50, "[red]", "%s%n",
    "é" * 99, "x" * 70_000, "type", "Hello", "all", "*", "s3://", "file:///", "\U0001f600",
)  # fmt: skip
_NUMBERS: Final = (
    -(2**63), -(2**31), -2, -1, 0, 1, 255, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
_OTHERS: Final[tuple[Any, ...]] = (
    None, True, 0.5, float("nan"), float("inf"), -0.0, b"\xff\xfe", [], {}, [[]], {"": ""},
    [[[0, 1, 2]] * 300], msgspec.msgpack.Ext(5, b"x"), [-1, 2**64 - 1, 0],
)  # fmt: skip


# --- frames -------------------------------------------------------------------------------------


def frames(seed: int, samples: Sequence[Message]) -> Iterator[bytes]:
    """Mutated messages without end; some of them stay valid."""
    random = Random(seed)
    golden = [encode(message) for message in samples]
    while True:
        frame = random.choice(golden)
        if random.random() < 0.5:
            frame = _said_otherwise(frame, random)
        for _ in range(random.choice((0, 1, 1, 1, 2, 5))):
            frame = random.choice(_EDITS)(frame, random)
        yield frame


def sequences(seed: int, length: int = 12) -> Iterator[list[bytes]]:
    """Valid messages of a client in any order and with mixed numbers, without end."""
    random = Random(seed)
    while True:
        chosen = (random.choice(CLIENT) for _ in range(random.randint(1, length)))
        yield [encode(_renumbered(message, random)) for message in chosen]


def bombard(send: Callable[[bytes], None], seed: int, count: int) -> None:
    """Give `count` frames to `send`: mutated ones, and sequences of valid ones between them."""
    mutated, valid = frames(seed, CLIENT), sequences(seed)
    sent = 0
    while sent < count:
        batch = [next(mutated) for _ in range(8)] + next(valid)
        for frame in batch[: count - sent]:
            send(frame)
        sent += len(batch)


def _renumbered(message: Message, random: Random) -> Message:
    """A message with small numbers of requests, loads and shards, so that messages refer to the
    same ones.
    """
    names = set(message.__struct_fields__)
    fields = {name: random.randint(0, 3) for name in names & {"load", "request_id"}}
    return msgspec.structs.replace(message, **fields)


def _said_otherwise(frame: bytes, random: Random) -> bytes:
    """A message of which one value is replaced, removed or added."""
    told: dict[str, Any] = msgspec.msgpack.decode(frame)
    spots = list(_spots(told))
    holder, key = random.choice(spots)
    action = random.random()
    if action < 0.7:
        holder[key] = _value(random)
    elif action < 0.85:
        del holder[key]
    elif isinstance(holder, dict):
        holder[random.choice(_TEXTS)] = _value(random)
    else:
        holder.extend([holder[key]] * random.choice((1, 1000)))
    return msgspec.msgpack.encode(told)


def _spots(told: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a value, as the container and the key."""
    for key, value in list(told.items() if isinstance(told, dict) else enumerate(told)):
        yield told, key
        if isinstance(value, dict | list):
            yield from _spots(value)


def _value(random: Random) -> Any:
    return random.choice(random.choice((_TEXTS, _NUMBERS, _OTHERS)))


def _place(data: bytes, random: Random) -> int:
    return random.randrange(len(data) + 1)


def _flip(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return (
        data[:at]
        + bytes(byte ^ (1 << random.randrange(8)) for byte in data[at : at + 1])
        + (data[at + 1 :])
    )


def _cut(data: bytes, random: Random) -> bytes:
    return data[: _place(data, random)]


def _drop(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[:at] + data[at + random.randint(1, 4) :]


def _insert(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[:at] + random.randbytes(random.randint(1, 4)) + data[at:]


def _kind(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[:at] + bytes([random.choice(_KINDS)]) + data[at + 1 :]


def _length(data: bytes, random: Random) -> bytes:
    """Change a type's length to one that no message has."""
    at = _place(data, random)
    kind = random.choice(b"\xc6\xc9\xdb\xdd\xdf")
    return data[:at] + bytes([kind]) + random.choice((b"\xff" * 4, b"\x7f" * 4)) + data[at:]


def _nest(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    depth = random.choice((3, 30, 900, 5000))
    return data[:at] + random.choice((b"\x91", b"\x81\xa1a")) * depth + b"\xc0" + data[at:]


def _repeat(data: bytes, random: Random) -> bytes:
    """Repeat a part of the message, such as a field."""
    start, stop = sorted((_place(data, random), _place(data, random)))
    return data[:stop] + data[start:stop] + data[stop:]


def _noise(_data: bytes, random: Random) -> bytes:
    return random.randbytes(random.randint(0, 64))


_EDITS: Final[Sequence[Edit]] = (
    _flip, _flip, _cut, _drop, _insert, _kind, _kind, _length, _nest, _repeat, _noise,
)  # fmt: skip


# --- headers ------------------------------------------------------------------------------------

_WORDS: Final = (
    *"{}[],: ", *("0", "1", "4", "-0", "-1", "1.0", "1e0", "01", "1" * 30, "18446744073709551615"),
    *('"a"', '"F32"', '"F4"', '"U8"', '"\\u0061"', '"dtype"', '"shape"', '"data_offsets"'),
    *('"__metadata__"', '"\\ud800"', '"},"', "null", "true", "\t", "\n", "\\", '"', "é"),
)  # fmt: skip


def files(seed: int) -> Iterator[bytes]:
    """Small files: valid safetensors, safetensors with a few changed bytes or words, and noise."""
    random = Random(seed)
    while True:
        choice = random.random()
        if choice < 0.05:
            yield random.randbytes(random.randint(0, 40))
        elif choice < 0.25:
            text = "".join(random.choices(_WORDS, k=random.randint(1, 30)))
            yield with_length(text.encode(), bytes(random.randint(0, 8)))
        else:
            file = _valid(random)
            for _ in range(random.choice((0, 1, 1, 2, 4))):
                file = random.choice(_FILE_EDITS)(file, random)
            yield file


def _valid(random: Random) -> bytes:
    members: dict[str, Any] = {}
    place = 0
    for number in range(random.choice((0, 1, 2, 3, 12))):
        dtype = random.choice(tuple(DTYPE_BITS))
        shape = [*random.choices((0, 1, 2, 8), k=random.randint(0, 3)), 8]
        size = DTYPE_BITS[dtype]
        for dimension in shape:
            size *= dimension
        name = f"{random.choice(_TEXTS[:-5])}{number}"
        members[name] = field(dtype, shape, place, place + size // 8)
        place += size // 8
    if random.random() < 0.3:
        members["__metadata__"] = random.choice((None, {}, {"format": "pt"}, {"},": '"}'}))
    if random.random() < 0.2:
        _disturb(members, random)
    listed = list(members.items())
    random.shuffle(listed)
    if random.random() < 0.5:
        text = json.dumps(dict(listed), default=repr) + " " * random.randint(0, 8)
        return with_length(text.encode(), bytes(place))
    text = json.dumps(dict(listed), ensure_ascii=False, separators=(",", ":"), default=repr)
    return with_length(text.encode(), bytes(place))


def _disturb(members: dict[str, Any], random: Random) -> None:
    """Change the description of one tensor, if there is any."""
    told = [each for each in members.values() if each and "shape" in each]
    if not told:
        return
    chosen = random.choice(told)
    match random.randrange(6):
        case 0:
            chosen["dtype"] = random.choice((*DTYPE_BITS, *_TEXTS, None, 3))
        case 1:
            chosen["shape"] = random.choices((*_NUMBERS, 2**70), k=random.choice((1, 2, 70)))
        case 2:
            chosen["shape"] = [1] * random.choice((63, 64, 65, 2000)) + chosen["shape"]
        case 3:
            offset = random.choice((-8, -1, 1, 8, 2**32, 2**64))
            chosen["data_offsets"] = [at + offset for at in chosen["data_offsets"]]
        case 4:
            chosen[random.choice(("dtype", "shape", "data_offsets", "x"))] = _value(random)
        case _:
            del chosen[random.choice(tuple(chosen))]


def _reworded(file: bytes, random: Random) -> bytes:
    """A file with a word inserted into its header, and the right header length."""
    header, data = _parts(file)
    at = _place(header, random)
    word = random.choice(_WORDS).encode()
    return with_length(header[:at] + word + header[at + random.choice((0, 0, 1)) :], data)


def _parts(file: bytes) -> tuple[bytes, bytes]:
    stop = 8 + int.from_bytes(file[:8], "little")
    return file[8:stop], file[stop:]


_FILE_EDITS: Final[Sequence[Edit]] = (_reworded, _flip, _cut, _drop, _insert, _repeat)
