"""Chooses the files of a model's weights, from a directory, an object store or a Hugging Face id.

vLLM's own functions download, cache and find revisions for Hugging Face ids. Runs in each rank.
"""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streamer_client.contract.errors import SourceNotFound
from streamer_client.contract.uris import is_remote
from streamer_client.storage.names import natural_key
from streamer_client.storage.os_errors import absolute_path
from streamer_vllm.files.index import INDEX_NAME, Index, read_index
from streamer_vllm.versions import pinned_revision

if TYPE_CHECKING:
    from vllm.config.load import LoadConfig

logger = logging.getLogger(__name__)

SAFETENSORS: Final = "*.safetensors"
CONSOLIDATED: Final = "consolidated*.safetensors"
"""Mistral's own form of all weights, which some repositories hold beside the Hugging Face files."""


@dataclass(frozen=True, slots=True)
class ChosenFiles:
    """The files to read in a folder."""

    files: Sequence[str]
    """The files, relative to the folder, in the order of reading."""
    owners: Mapping[str, str] | None = None
    """For a tensor that is in several files, the file that counts; None without an index."""


def weights_folder(name: str, revision: str | None, load_config: LoadConfig) -> str:
    """The directory or object-store prefix with the weights, which are downloaded if necessary."""
    if "://" in name:
        return name
    if os.path.isdir(name):
        return absolute_path(name)
    from vllm.model_executor.model_loader.weight_utils import (  # noqa: PLC0415  heavy
        download_safetensors_index_file_from_hf,
        download_weights_from_hf,
    )

    revision = pinned_revision(name, revision)
    folder: str = download_weights_from_hf(
        name,
        load_config.download_dir,
        [SAFETENSORS],
        revision,
        ignore_patterns=load_config.ignore_patterns,
    )
    if not os.path.isfile(os.path.join(folder, INDEX_NAME)):
        download_safetensors_index_file_from_hf(
            name, INDEX_NAME, cache_dir=load_config.download_dir, revision=revision
        )
    return folder


def chosen_files(folder: str) -> ChosenFiles | None:
    """The safetensors files to read; None if all files are to be read, or there are none.

    An index decides if there is one. If it names no existing file, it is left over from another
    state of the folder, and the log says so. Without an index, the consolidated copy of all weights
    is left out if other files hold them.

    Raises:
        SourceNotFound: the index of a directory names a file that is missing.
        SourceError: the object store does not answer, or the index is malformed.
    """
    index = read_index(folder)
    if is_remote(folder):
        return None if index is None else ChosenFiles(index.files, index.owners)
    if index is not None:
        missing = [name for name in index.files if not _is_file(folder, name)]
        if not missing:
            return ChosenFiles(index.files, index.owners)
        if len(missing) < len(index.files):
            raise _incomplete(index, missing)
        logger.warning(
            "event=stale_index index=%s missing=%d consequence=%r",
            index.uri,
            len(missing),
            "all safetensors files of the folder are read",
        )
    return _without_consolidated(folder)


def _without_consolidated(folder: str) -> ChosenFiles | None:
    found = sorted(fnmatch.filter(os.listdir(folder), SAFETENSORS), key=natural_key)
    others = [name for name in found if not fnmatch.fnmatch(name, CONSOLIDATED)]
    return ChosenFiles(others) if others and others != found else None


def _is_file(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, name))


def _incomplete(index: Index, missing: Sequence[str]) -> SourceNotFound:
    shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    return SourceNotFound(
        f"{index.uri} names {len(index.files)} files, and of these are missing: {shown}; is the "
        f"checkpoint complete, and {INDEX_NAME} its own?"
    )
