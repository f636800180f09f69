"""The Run:ai Model Streamer's Python API (0.17) over this project's engine.

    from streamer_client.runai import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(["s3://models/llama/model.safetensors"])
        for name, tensor in streamer.get_tensors():
            ...

Code written for `runai_model_streamer` runs after changing that import;
`docs/runai-compatibility.md` tells of every difference. Importing this package is cheap: torch,
storage and client are imported with the first name that needs them.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Final

from streamer_client.runai.log_settings import configure_logging

if TYPE_CHECKING:
    from streamer_client.runai.distributed_streamer import DistributedStreamer
    from streamer_client.runai.file_streamer import FileChunks, FileStreamer
    from streamer_client.runai.listing import list_safetensors
    from streamer_client.runai.pulling import pull_files
    from streamer_client.runai.s3_utils.s3_utils import S3Credentials
    from streamer_client.runai.safetensors_streamer.safetensors_streamer import (
        ObjectStorageModel,
        SafetensorsStreamer,
    )

__all__ = [
    "DistributedStreamer",
    "FileChunks",
    "FileStreamer",
    "ObjectStorageModel",
    "S3Credentials",
    "SafetensorsStreamer",
    "list_safetensors",
    "pull_files",
]

_MODULE_OF: Final = {
    "DistributedStreamer": "distributed_streamer",
    "FileChunks": "file_streamer",
    "FileStreamer": "file_streamer",
    "ObjectStorageModel": "safetensors_streamer.safetensors_streamer",
    "S3Credentials": "s3_utils.s3_utils",
    "SafetensorsStreamer": "safetensors_streamer.safetensors_streamer",
    "list_safetensors": "listing",
    "pull_files": "pulling",
}
_MODULES: Final = ("distributed_streamer", "file_streamer", "s3_utils", "safetensors_streamer")
"""Run:ai's own modules, which are also attributes of this package."""

configure_logging(os.environ)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
