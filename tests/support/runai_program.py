"""A program written for Run:ai's API: `python runai_program.py MODULE DIRECTORY` prints results.

The same text runs against `runai_model_streamer` and against this project, and the results are
compared. It uses only that API, torch and the standard library, as it may run elsewhere.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any


def digest(tensor: Any) -> str:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(bytes(flat.tolist())).hexdigest()[:16]


def seen(tensors: Any) -> list[list[Any]]:
    return sorted([name, str(one.dtype), list(one.shape), digest(one)] for name, one in tensors)


def metadata(streamer: Any) -> dict[str, list[list[Any]]]:
    return {
        str(place): [
            [
                one.name,
                one.dtype,
                list(one.shape),
                [one.offsets.start, one.offsets.end, one.offsets.get_diff()],
                [one.get_bytesize(), one.get_item_count(), one.get_element_size()],
                str(one.get_torch_dtype()),
            ]
            for one in tensors
        ]
        for place, tensors in streamer.files_to_tensors_metadata.items()
    }


def failing(call: Callable[[], object]) -> str:
    """The class that callers catch: `ValueError`, or the name of any other error."""
    try:
        call()
    except ValueError:
        return "ValueError"
    except Exception as error:  # noqa: BLE001  every error is reported
        return type(error).__name__
    return "nothing"


def stream(api: Any, paths: list[str], **options: Any) -> list[list[Any]]:
    with api.SafetensorsStreamer() as streamer:
        streamer.stream_files(paths, **options)
        return seen(streamer.get_tensors())


def tensors(api: Any, one: str, two: str) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    with api.SafetensorsStreamer() as streamer:
        streamer.stream_file(one)
        answers["one file"] = [seen(streamer.get_tensors()), metadata(streamer)]
        answers["again after the end"] = seen(streamer.get_tensors())
        streamer.stream_files([one, two], None, "cpu", False)
        answers["two files"] = [seen(streamer.get_tensors()), metadata(streamer)]
        answers["sizes"] = [streamer.total_size, streamer.device_str]
    answers["no file"] = stream(api, [])
    answers["a file twice"] = stream(api, [one, one])
    answers["device None"] = stream(api, [one], device=None)
    answers["distributed"] = stream(api, [one], is_distributed=True)
    answers["some tensors"] = stream(api, [one, two], tensor_names=["b", "empty", "fp8"])
    answers["borrowed"] = [name for name, *_ in stream(api, [two], owned=False)]
    return answers


def chunks(api: Any, one: str, two: str) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    with api.FileStreamer() as streamer:
        streamer.stream_files([api.FileChunks(7, one, [8, 0, 3, 5, 8], [4, 8, 0, 600, 4])])
        answers["chunks"] = sorted(
            [file, place, str(chunk.dtype), list(chunk.shape), digest(chunk)]
            for file, place, chunk in streamer.get_chunks()
        )
    with api.DistributedStreamer() as streamer:
        request = api.FileChunks.contiguous(3, two, 0, [8, 100, 1])
        streamer.stream_files([request], None, "cpu", True)
        answers["distributed chunks"] = sorted(
            [file, place, list(chunk.shape), digest(chunk)]
            for file, place, chunk in streamer.get_chunks()
        )
        answers["group"] = [streamer.get_group_size(), streamer.is_distributed]
        answers["request"] = [request.total_size(), request.max_chunk_size(), request.offsets]
    return answers


def errors(api: Any, directory: str, one: str, two: str) -> dict[str, str]:
    def beyond() -> None:
        with api.FileStreamer() as streamer:
            streamer.stream_files([api.FileChunks(7, one, [8], [1 << 20])])
            list(streamer.get_chunks())

    none = f"{directory}/none"
    return {
        "missing file": failing(lambda: stream(api, [f"{none}.safetensors"])),
        "cut file": failing(lambda: stream(api, [f"{directory}/cut.safetensors"])),
        "unknown tensor": failing(lambda: stream(api, [one], tensor_names=["zz"])),
        "tensor in two": failing(lambda: stream(api, [one, two], tensor_names=["a"])),
        "no names": failing(lambda: stream(api, [one], tensor_names=[])),
        "names in one text": failing(lambda: stream(api, [one], tensor_names="a")),
        "listing nothing": failing(lambda: api.FileStreamer().list_files(none)),
        "not entered": failing(lambda: list(api.FileStreamer().get_chunks())),
        "unequal lists": failing(lambda: api.FileChunks(0, one, [0], [])),
        "beyond the end": failing(beyond),
    }


def listings(api: Any, directory: str) -> dict[str, Any]:
    def files(**options: Any) -> list[list[Any]]:
        # The slash matters: to an object store, a prefix without one is the beginning of any key.
        found = api.FileStreamer().list_files(f"{directory}/", **options)
        return sorted([path.removeprefix(directory), size] for path, size in found)

    found = sorted(api.list_safetensors(directory))
    return {
        "safetensors": [path.removeprefix(directory) for path in found],
        "no safetensors": api.list_safetensors(f"{directory}/none"),
        "files": files(),
        "direct files": files(is_recursive=False),
        "json files": files(allow_patterns=["*.json"]),
        "other files": files(ignore_patterns=["*.json", "*.safetensors"]),
    }


def run(module: str, directory: str) -> dict[str, Any]:
    api = importlib.import_module(module)
    one, two = (f"{directory}/{name}.safetensors" for name in ("one", "two"))
    return {
        **tensors(api, one, two),
        **chunks(api, one, two),
        "errors": errors(api, directory, one, two),
        **listings(api, directory),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(*sys.argv[1:]), indent=1, sort_keys=True))
