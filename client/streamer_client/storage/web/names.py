"""Names of a checkpoint's files on a web server, since web servers list nothing. Pure.

A checkpoint must be laid out as on Hugging Face: one `model.safetensors`, or several files with an
index.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streamer_client.contract.errors import SourceError

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"

BESIDE: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "params.json",
    "tekken.json",
)
"""The files that usually lie beside the weights."""


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def files_of_index(about: str, body: bytes) -> list[str]:
    """The files that an index names, each once, in its order.

    Raises:
        SourceError: the body is no index, or names a file outside of its directory.
    """
    try:
        index = msgspec.json.decode(body, type=_Index)
    except msgspec.DecodeError as error:
        raise SourceError(
            f"{about}: is no index of a checkpoint: {error}; it must map each tensor to a file "
            "in `weight_map`"
        ) from error
    names = list(dict.fromkeys(index.weight_map.values()))
    for name in names:
        if "://" in name or name.startswith("/") or ".." in name.split("/"):
            raise SourceError(
                f"{about}: names the file {name!r}, which is not beside it; correct the index"
            )
    return names


def is_glob(pattern: str) -> bool:
    """Whether a pattern is a glob, rather than the name of one file."""
    return any(sign in pattern for sign in "*?[")
