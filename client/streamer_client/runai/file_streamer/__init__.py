"""Reading ranges of files, under the names of Run:ai's modules."""

from __future__ import annotations

from streamer_client.runai.file_streamer.file_streamer import FileStreamer
from streamer_client.runai.file_streamer.requests_iterator import FileChunks

__all__ = ["FileChunks", "FileStreamer"]
