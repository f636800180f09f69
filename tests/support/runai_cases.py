"""Programs as users of Run:ai's API write them.

`python -m tests.support.runai_cases MODULE ROOT` runs them all. ROOT is a directory or the URI of a
bucket, filled by `runai_package.write_cases`. The same text runs against `runai_model_streamer` and
against ours. A case is a list of steps: the call, and what it answered, or `raises` and the classes
by which a caller can catch the error. Here are the cases about streams.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

from tests.support import runai_listing_cases, runai_module_cases
from tests.support.runai_told import FILES, OBJECTS, Case, Steps, Told, both, case


def chunks(api: Any, root: str, requests: list[Any], **options: Any) -> Steps:
    """`stream_files`, then `get_chunks`."""
    told = Told(root)
    with api.FileStreamer() as streamer:
        told("stream_files", lambda: streamer.stream_files(requests, **options))
        told(
            "get_chunks",
            lambda: sorted((i, p, tuple(c.shape), c.tolist()) for i, p, c in streamer.get_chunks()),
        )
    return told.steps


def tensors(api: Any, root: str, names: list[str], **options: Any) -> Steps:
    """`stream_files`, then `get_tensors`."""
    told = Told(root)
    with api.SafetensorsStreamer() as streamer:
        paths = [f"{root}/m/{name}.safetensors" for name in names]
        told("stream_files", lambda: streamer.stream_files(paths, **options))
        told("get_tensors", lambda: sorted(name for name, _ in streamer.get_tensors()))
    return told.steps


# --- ranges ---------------------------------------------------------------------------------------


def _range_case(title: str, tables: tuple[dict[str, Case], ...], make: Any, **options: Any) -> None:
    def run(api: Any, root: str) -> Steps:
        def chunk(id_: Any, name: str, offsets: list[int], sizes: list[int]) -> Any:
            return api.FileChunks(id_, f"{root}/m/{name}", offsets, sizes)

        return chunks(api, root, make(chunk), **options)

    run.__doc__ = title
    case(*tables)(run)


ONE = "one.safetensors"
_RANGES: list[tuple[str, Any]] = [
    ("a range past the end of its file", lambda c: [c(1, ONE, [602], [8])]),
    ("a range that begins past the end", lambda c: [c(1, ONE, [900], [8])]),
    (
        "ids of files that repeat",
        lambda c: [c(1, ONE, [0], [2]), c(1, "two.safetensors", [0, 8], [2, 1])],
    ),
    ("one file in two requests", lambda c: [c(1, ONE, [0], [2]), c(2, ONE, [0, 8], [2, 1])]),
    ("a range of no bytes", lambda c: [c(1, ONE, [4, 0], [0, 2])]),
    ("ranges of no bytes alone", lambda c: [c(1, ONE, [4, 4], [0, 0])]),
    ("a range of no bytes past the end", lambda c: [c(1, ONE, [900], [0])]),
    ("a range of no bytes of a missing file", lambda c: [c(1, "none", [0], [0])]),
    ("a file without ranges", lambda c: [c(1, ONE, [], [])]),
    ("no file", lambda _: []),
    ("a missing file", lambda c: [c(1, "none", [0], [4])]),
    ("a negative offset", lambda c: [c(1, ONE, [-4], [2])]),
    ("a negative size", lambda c: [c(1, ONE, [4], [-2])]),
    ("an id that is a text", lambda c: [c("a", ONE, [0], [1])]),
    (
        "a file and an object at once",
        lambda c: [c(1, ONE, [0], [4]), c(2, ONE, [0], [4])][:1] + _other(c),
    ),
]


def _other(chunk: Any) -> list[Any]:
    one = chunk(2, ONE, [0], [4])
    one.path = "/m/x" if "://" in one.path else "s3://bucket/x"
    return [one]


for _title, _make in _RANGES:
    _range_case(_title, both, _make)
for _limit in (-5, -1, 0, 3, 4):
    _range_case(
        f"memory_limit={_limit} and a range of 4 bytes",
        both,
        lambda c: [c(1, ONE, [0], [4])],
        memory_limit=_limit,
    )
_range_case("device='gpu'", both, lambda c: [c(1, ONE, [0], [4])], device="gpu")
_range_case("device=None", both, lambda c: [c(1, ONE, [0], [1])], device=None)
_range_case("a folder in the place of a file", (FILES,), lambda c: [c(1, "deep", [0], [4])])


# --- tensors --------------------------------------------------------------------------------------


def _tensors_case(
    title: str, tables: tuple[dict[str, Case], ...], names: list[str], **options: Any
) -> None:
    def run(api: Any, root: str) -> Steps:
        return tensors(api, root, names, **options)

    run.__doc__ = title
    case(*tables)(run)


for _name, _title in {
    "one": "a checkpoint",
    "cut": "a checkpoint that is cut short in its tensors",
    "long": "a checkpoint with bytes behind its last tensor",
    "tiny": "a checkpoint of three bytes",
    "nothing": "a checkpoint of no bytes",
    "garbage": "a checkpoint whose header is no JSON",
    "huge": "a checkpoint whose header would be of 2^60 bytes",
    "none": "a checkpoint that is not there",
}.items():
    _tensors_case(_title, both, [_name])
_tensors_case("two checkpoints, the second cut short", both, ["one", "cut"])
_tensors_case("a folder named like a checkpoint", (FILES,), ["folder"])
_tensors_case("a tensor name that is in no file", both, ["one"], tensor_names=["zz"])
_tensors_case("a tensor name that is in two files", both, ["one", "two"], tensor_names=["a"])
_tensors_case("an empty list of tensor names", both, ["one"], tensor_names=[])
_tensors_case("no checkpoint", both, [])


@case(*both)
def after_the_with(api: Any, root: str) -> Steps:
    """A streamer after its `with` block."""
    told = Told(root)
    with api.SafetensorsStreamer() as streamer:
        streamer.stream_file(f"{root}/m/one.safetensors")
        names = sorted(name for name, _ in streamer.get_tensors())
    told("total_size", lambda: streamer.total_size)
    told("names", lambda: names)
    told(
        "files_to_tensors_metadata",
        lambda: {k: [one.name for one in v] for k, v in streamer.files_to_tensors_metadata.items()},
    )
    told("get_tensors", lambda: list(streamer.get_tensors()))
    told("stream_file", lambda: streamer.stream_file(f"{root}/m/one.safetensors"))
    return told.steps


@case(FILES)
def before_any_stream(api: Any, root: str) -> Steps:
    """A streamer before its first call."""
    told = Told(root)
    one = f"{root}/m/one.safetensors"
    with api.SafetensorsStreamer() as streamer:
        told("total_size", lambda: streamer.total_size)
        told("get_tensors", lambda: list(streamer.get_tensors()))
        told("file_streamer", lambda: type(streamer.file_streamer).__name__)
    told("get_chunks outside of `with`", lambda: list(api.FileStreamer().get_chunks()))
    told("stream_file outside of `with`", lambda: api.SafetensorsStreamer().stream_file(one))
    return told.steps


@case(FILES)
def second_stream(api: Any, root: str) -> Steps:
    """A second stream before the first was read to its end."""
    told = Told(root)
    one = f"{root}/m/one.safetensors"
    with api.SafetensorsStreamer() as streamer:
        streamer.stream_file(one)
        first = streamer.get_tensors()
        next(first)
        told("stream_file", lambda: streamer.stream_file(one))
        told("the first", lambda: sorted(name for name, _ in first) and "ends")
    return told.steps


@case(FILES)
def variables(api: Any, root: str) -> Steps:
    """Variables that make no sense."""
    told = Told(root)
    one = f"{root}/m/one.safetensors"
    for name, values in {
        "CONCURRENCY": ("0", "-1", "many", ""),
        "MEMORY_LIMIT": ("-2", "3", "5GB", ""),
    }.items():
        variable = f"RUNAI_STREAMER_{name}"
        for value in values:
            os.environ[variable] = value
            setting = f"{variable}={value!r}"
            streamer = api.SafetensorsStreamer()
            told(f"with {setting}", _enter, streamer)
            told(f"stream_file with {setting}", streamer.stream_file, one)
            del os.environ[variable]
            streamer.__exit__(None, None, None)
    return told.steps


@case(*both)
def read_again(api: Any, root: str) -> Steps:
    """Reading again, after the end, after an error and after leaving."""
    told = Told(root)
    one, none = (api.FileChunks(1, f"{root}/m/{name}", [0], [2]) for name in (ONE, "none"))
    streamer = api.FileStreamer()
    for _ in range(2):
        with streamer:
            told("stream_files", streamer.stream_files, [one])
            for _ in range(2):
                told("get_chunks", _places, streamer)
            told("stream_files of nothing", streamer.stream_files, [none])
            told("get_chunks of nothing", _places, streamer)
            told("stream_files after an error", streamer.stream_files, [one])
            told("get_chunks after an error", _places, streamer)
    return told.steps


def _places(streamer: Any) -> list[Any]:
    return sorted((file, place) for file, place, _ in streamer.get_chunks())


@case(*both)
def unusual_arguments(api: Any, root: str) -> Steps:
    """Tuples, sets, generators and names that repeat."""
    told = Told(root)
    one = f"{root}/m/{ONE}"

    def streamed(paths: Any, names: Any) -> list[str]:
        with api.SafetensorsStreamer() as streamer:
            streamer.stream_files(paths, tensor_names=names)
            return sorted(name for name, _ in streamer.get_tensors())

    told("names in a set", streamed, [one], {"a", "b"})
    told("names in a tuple", streamed, [one], ("a", "b"))
    told("names in keys", streamed, [one], {"a": 1}.keys())
    told("a name twice", streamed, [one], ["a", "a"])
    told("paths in a tuple", streamed, (one,), None)
    with api.FileStreamer() as streamer:
        told("ranges in tuples", streamer.stream_files, [api.FileChunks(1, one, (0, 1), (2, 2))])
        told("get_chunks", _places, streamer)
    told("no sizes", api.FileChunks(1, one, [], []).total_size)
    told("the largest of no sizes", api.FileChunks(1, one, [], []).max_chunk_size)
    told("sizes alone", api.FileChunks, 1, one, [], [1])
    return told.steps


@case(*both)
def broken_off(api: Any, root: str) -> Steps:
    """Leaving, or an error of the caller, in the middle of a stream."""
    told = Told(root)
    paths = [f"{root}/m/{ONE}", f"{root}/m/two.safetensors"]

    def stop() -> None:
        with api.SafetensorsStreamer() as streamer:
            streamer.stream_files(paths)
            for _ in streamer.get_tensors():
                raise OSError("the caller's own")

    def leave() -> None:
        with api.SafetensorsStreamer() as streamer:
            streamer.stream_files(paths)
            next(streamer.get_tensors())

    def never_read() -> int:
        with api.SafetensorsStreamer() as streamer:
            streamer.stream_files(paths)
        return int(streamer.total_size)

    told("an error of the caller", stop)
    told("leaving", leave)
    told("leaving before anything was read", never_read)
    return told.steps


def _enter(streamer: Any) -> bool:
    return bool(streamer.__enter__())


def run(module: str, root: str) -> dict[str, Steps]:
    api = importlib.import_module(module)
    for more in (runai_listing_cases, runai_module_cases):
        assert more.__doc__  # importing these modules fills the tables
    table = OBJECTS if "://" in root else FILES
    return {title: function(api, root) for title, function in table.items()}


if __name__ == "__main__":
    told_of_all = json.dumps(run(*sys.argv[1:]))
    sys.stdout.write(told_of_all)
