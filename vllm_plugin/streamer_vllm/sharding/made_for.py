"""The note of what a sharded checkpoint was made for; it is checked before the checkpoint is read.

Files for other ranks often fit into the parameters, so that they load and the model answers
nonsense. So the writer notes ranks, expert parallelism and quantization, and the loader compares. A
checkpoint without the note (vLLM's own writer makes none) is judged by its names. Imports no vLLM.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from streamer_client.contract.errors import (
    ConfigError,
    CorruptCheckpoint,
    SourceError,
    SourceNotFound,
)
from streamer_client.contract.uris import is_remote
from streamer_vllm.files.index import read_small_file
from streamer_vllm.sharding.pattern import Place, file_glob

NOTE_NAME: Final = "streamerd.json"
FORMAT: Final = 1


class MadeFor(msgspec.Struct, frozen=True, omit_defaults=False):
    """The note; later formats may add fields, which are ignored here."""

    format: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    expert_parallel: bool
    quantization: str | None
    dtype: str
    vllm: str
    """The version of vLLM that wrote the checkpoint."""
    pattern: str | None
    """The pattern of the files' names; None for vLLM's default."""
    files: tuple[str, ...]
    """Every weight file, relative to the folder."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The note that this engine would make if it wrote the checkpoint."""

    place: Place
    expert_parallel: bool
    quantization: str | None
    pattern: str | None


def write_note(directory: str, note: MadeFor) -> None:
    """Write the note beside the shards."""
    with open(os.path.join(directory, NOTE_NAME), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(note), indent=2) + b"\n")


def read_note(folder: str) -> MadeFor | None:
    """The note of a directory or prefix; None if there is none.

    Raises:
        CorruptCheckpoint: the file is not a note that a writer writes.
    """
    content = read_small_file(folder, NOTE_NAME)
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=MadeFor)
    except msgspec.DecodeError as error:
        raise CorruptCheckpoint(
            f"{folder}/{NOTE_NAME}: {error}; copy the checkpoint again, or remove this file to "
            "load without its checks"
        ) from error


def check_made_for(folder: str, wanted: Wanted) -> MadeFor | None:
    """Refuse a checkpoint that was made for another engine.

    Returns:
        The checkpoint's note; None if there is none.

    Raises:
        ConfigError: the checkpoint was made for other ranks, expert parallelism or quantization.
        CorruptCheckpoint: a file beside this rank's files was not written with them.
        SourceNotFound: a file of this rank is missing.
    """
    note = read_note(folder)
    if note is None:
        if not is_remote(folder):
            _check_names(folder, wanted)
        return None
    for what, made, now in _differences(note, wanted):
        raise ConfigError(
            f"{folder} was written for {what} {made} and this engine has {now}; start vLLM with "
            "the same, or write another checkpoint with `streamerctl shard`"
        )
    if not is_remote(folder):
        _check_files(folder, note, wanted)
    return note


@contextmanager
def naming_writer(note: MadeFor | None, running: str) -> Iterator[None]:
    """Name the vLLM that wrote a checkpoint in errors about its tensors, if it is another version.

    Most versions name and shape parameters alike, so another version alone is no error.

    Args:
        note: the note of the checkpoint; None if there is none.
        running: this vLLM's version.

    Raises:
        SourceError: the error that was raised inside.
    """
    try:
        yield
    except SourceError as error:
        if note is None or note.vllm == running or type(error) is not SourceError:
            raise
        raise SourceError(
            f"{error} (vLLM {note.vllm} wrote these files and this is vLLM {running}, which may "
            "name or shape parameters in another way; if so, write them again with "
            "`streamerctl shard`)"
        ) from error


def is_sharded(folder: str, wanted: str) -> bool:
    """Whether a folder holds shards of ranks, that is, has the note or a file of this rank."""
    if read_note(folder) is not None:
        return True
    return not is_remote(folder) and bool(_files_like(folder, wanted))


def _differences(note: MadeFor, wanted: Wanted) -> list[tuple[str, object, object]]:
    place = wanted.place
    pairs: tuple[tuple[str, object, object], ...] = (
        ("tensor-parallel size", note.tensor_parallel_size, place.tp_size),
        ("pipeline-parallel size", note.pipeline_parallel_size, place.pp_size),
        ("expert parallelism", _on(note.expert_parallel), _on(wanted.expert_parallel)),
        # The name that vLLM gives to its method depends on the device, so it is not compared.
        ("quantization", _on(note.quantization is not None), _on(wanted.quantization is not None)),
    )
    return [pair for pair in pairs if pair[1] != pair[2]]


def _on(flag: bool) -> str:
    return "on" if flag else "off"


def _check_files(folder: str, note: MadeFor, wanted: Wanted) -> None:
    """Check that this rank's files are exactly those that the writer wrote."""
    glob = file_glob(wanted.pattern, wanted.place)
    own = fnmatch.filter(note.files, glob)
    missing = [name for name in own if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        raise SourceNotFound(
            f"{folder} lacks {', '.join(missing)}, which was written with it; copy it again as a "
            "whole"
        )
    extra = sorted(set(_files_like(folder, glob)) - set(own))
    if own and extra:
        raise CorruptCheckpoint(
            f"{folder} holds {', '.join(extra)}, which was not written with the other files of "
            "this rank; remove it, or copy the checkpoint again into an empty folder"
        )


def _files_like(folder: str, glob: str) -> list[str]:
    """The files of a folder that match a glob, which has wildcards only in its last component."""
    below, pattern = os.path.split(glob)
    try:
        names = os.listdir(os.path.join(folder, below))
    except OSError:
        return []
    return [os.path.join(below, name) for name in fnmatch.filter(names, pattern)]


def _check_names(folder: str, wanted: Wanted) -> None:
    """Check a checkpoint without a note: files of ranks that this engine lacks are an error.

    If this rank has no file at all, the open says so, with the names that are there.
    """
    place = wanted.place
    if not is_sharded(folder, file_glob(wanted.pattern, place)):
        return
    beyond = Place(place.tp_size, place.tp_size + 1, place.pp_rank, place.pp_size)
    glob = _glob_or_nothing(wanted.pattern, beyond)
    if not glob or glob == _glob_or_nothing(wanted.pattern, place):
        return
    found = _files_like(folder, glob)
    if found:
        raise ConfigError(
            f"{folder} holds {found[0]} and so was written for more than the {place.tp_size} "
            "tensor-parallel ranks of this engine; start vLLM with as many, or write another "
            "checkpoint with `streamerctl shard`"
        )


def _glob_or_nothing(pattern: str | None, place: Place) -> str:
    try:
        return file_glob(pattern, place)
    except ConfigError:
        return ""  # the pattern is for one rank alone
