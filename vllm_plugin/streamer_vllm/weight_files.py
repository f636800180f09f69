"""Which files a model's weights are in: a directory, an object store, or a Hugging Face id.

Downloading, caching and revisions of the latter are left to vLLM's own functions.
"""

from __future__ import annotations

import glob
import os
from typing import Final

from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.weight_utils import (
    download_safetensors_index_file_from_hf,
    download_weights_from_hf,
    filter_duplicate_safetensors_files,
)
from vllm.transformers_utils import repo_utils

from streamer_client.contract.errors import SourceNotFound
from streamer_client.contract.uris import is_remote
from streamer_client.storage.names import natural_key
from streamer_vllm.object_index import needed_objects

SAFETENSORS: Final = "*.safetensors"
INDEX_NAME: Final = "model.safetensors.index.json"


def weights_name(model_config: ModelConfig) -> str:
    """What names the weights: `model_weights` where it is set, else the model itself."""
    override: str = getattr(model_config, "model_weights", "")
    return override or model_config.model


def weights_folder(name: str, revision: str | None, load_config: LoadConfig) -> str:
    """The directory or object-store prefix with the weights; downloads them if need be."""
    if "://" in name:
        return name
    if os.path.isdir(name):
        return os.path.abspath(name)
    revision = _pinned(name, revision)
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


def needed_files(folder: str) -> list[str] | None:
    """The safetensors files to read, those that the index leaves out dropped.

    Returns:
        None where all are needed, or there are none: whoever opens the folder says what is wrong.

    Raises:
        SourceNotFound: the index of a directory names a file that is not there.
        SourceError: the object store does not answer, or the index is malformed.
    """
    if is_remote(folder):
        return needed_objects(folder, INDEX_NAME)
    found = sorted(glob.glob(os.path.join(glob.escape(folder), SAFETENSORS)), key=natural_key)
    if not found:
        return None
    try:
        return list(filter_duplicate_safetensors_files(found, folder, INDEX_NAME))
    except FileNotFoundError as error:
        raise SourceNotFound(
            f"{folder}: {error}; is the checkpoint complete, and {INDEX_NAME} its own?"
        ) from error


def _pinned(name: str, revision: str | None) -> str | None:
    """The revision of this very repository, where the installed vLLM tells them apart."""
    resolve = getattr(repo_utils, "resolve_revision", None)
    return revision if resolve is None else resolve(name, revision)
