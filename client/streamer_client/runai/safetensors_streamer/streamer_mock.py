"""A directory that stands for an object store, for tests of code that streams from one.

Owns the mapping of `s3://` and `gs://` URIs to paths, and the three functions with which tests
replace those of the API. The module has Run:ai's name, as vLLM's tests import it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any

from streamer_client.runai.listing import list_safetensors, wanted
from streamer_client.runai.s3_utils.s3_utils import S3Credentials, is_gs_path, is_s3_path
from streamer_client.runai.safetensors_streamer.safetensors_streamer import SafetensorsStreamer


class StreamerPatcher:
    """Answers for object stores from a directory.

    Args:
        local_bucket_path: the directory that stands for every bucket.
    """

    class MockSafetensorsStreamer(SafetensorsStreamer):
        """A streamer that reads the files which stand for objects."""

        def __init__(self, patcher: StreamerPatcher) -> None:
            super().__init__()
            self.patcher = patcher

        def stream_files(self, paths: Sequence[str], *args: Any, **kwargs: Any) -> None:
            """Begin to read, as `SafetensorsStreamer.stream_files` does."""
            files = [self.patcher.convert_remote_path_to_local_path(path) for path in paths]
            super().stream_files(files, *args, **kwargs)

    def __init__(self, local_bucket_path: str) -> None:
        self.local_path = local_bucket_path

    def is_remote_path(self, path: str) -> bool:
        """Whether a path is a URI that the directory answers for."""
        return is_s3_path(path) or is_gs_path(path)

    def convert_remote_path_to_local_path(self, path: str) -> str:
        """The path of an object: its key below the directory. Other paths stay as they are."""
        if not self.is_remote_path(path):
            return path
        _, _, key = path.partition("://")[2].partition("/")
        return os.path.join(self.local_path, key)

    def convert_local_path_to_mocked_remote_path(
        self, local_path_result: str, original_remote_path: str
    ) -> str:
        """The URI of a file below the directory, in the bucket of the requested URI."""
        scheme, _, rest = original_remote_path.partition("://")
        key = os.path.relpath(local_path_result, self.local_path)
        return f"{scheme}://{rest.partition('/')[0]}/{key}"

    def shim_list_safetensors(
        self, path: str, s3_credentials: S3Credentials | None = None
    ) -> list[str]:
        """List files as `list_safetensors` does."""
        if not self.is_remote_path(path):
            return list_safetensors(path, s3_credentials)
        return [
            self.convert_local_path_to_mocked_remote_path(found, path)
            for found in list_safetensors(self.convert_remote_path_to_local_path(path))
        ]

    def shim_pull_files(
        self,
        model_path: str,
        dst: str,
        allow_pattern: list[str] | None = None,
        ignore_pattern: list[str] | None = None,
        s3_credentials: S3Credentials | None = None,
    ) -> None:
        """Copy files as `pull_files` does, but only from object stores. Empty patterns match all.

        Raises:
            NotImplementedError: `model_path` is not a URI that the directory answers for.
        """
        del s3_credentials
        if not self.is_remote_path(model_path):
            raise NotImplementedError(
                f"{model_path}: pulling is not implemented for file system paths; copy it"
            )
        source = self.convert_remote_path_to_local_path(model_path)
        for folder, _, names in os.walk(source):
            for name in names:
                path = os.path.join(folder, name)
                relative = os.path.relpath(path, source)
                if wanted(path, relative, allow_pattern or None, ignore_pattern):
                    target = os.path.join(dst, relative)
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    shutil.copyfile(path, target)

    def create_mock_streamer(
        self, *args: Any, **kwargs: Any
    ) -> StreamerPatcher.MockSafetensorsStreamer:
        """Make a streamer that stands for `SafetensorsStreamer`."""
        del args, kwargs
        return self.MockSafetensorsStreamer(self)
