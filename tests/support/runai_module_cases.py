"""Cases of `runai_cases.py` about names that other programs import from Run:ai's modules.

vLLM's loader asks `prepare_request` for the names in files, and its tests replace a store by the
mock. Loaders of other devices make tensors from ranges.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from tests.support.runai_told import FILES, Steps, Told, both, case, named


def module(api: Any, name: str) -> Any:
    return importlib.import_module(f"{api.__name__}.{name}")


def headers(api: Any) -> Any:
    return module(api, "safetensors_streamer.safetensors_pytorch")


@case(*both)
def prepared(api: Any, root: str) -> Steps:
    """prepare_request."""
    told = Told(root)

    def prepare(*names: str) -> list[Any]:
        paths = [f"{root}/m/{name}.safetensors" for name in names]
        with api.DistributedStreamer() as streamer:
            return [
                (start, [(one.name, one.dtype, one.get_bytesize()) for one in tensors], sizes)
                for start, tensors, sizes in headers(api).prepare_request(streamer, paths, None)
            ]

    for names in (["one"], ["two", "one"], ["one", "one"], [], ["none"], ["garbage"], ["cut"]):
        told(f"of {names}", prepare, *names)
    return told.steps


@case(*both)
def from_files(api: Any, root: str) -> Steps:
    """SafetensorsMetadata.from_files."""
    told = Told(root)
    paths = [f"{root}/m/two.safetensors", f"{root}/m/one.safetensors"]
    with api.DistributedStreamer() as streamer:
        for one in headers(api).SafetensorsMetadata.from_files(streamer, paths, None):
            told("offset", lambda: one.offset)  # noqa: B023  it is called at once
            told("read_sizes", lambda: one.read_sizes)  # noqa: B023
            told("names", lambda: [each.name for each in one.tensors_metadata])  # noqa: B023
    return told.steps


@case(*both)
def made_by_hand(api: Any, root: str) -> Steps:
    """Tensors made out of ranges that prepare_request tells of."""
    told = Told(root)
    path = f"{root}/m/one.safetensors"
    with api.DistributedStreamer() as streamer:
        ((start, tensors, sizes),) = headers(api).prepare_request(streamer, [path], None)
        request = api.FileChunks.contiguous(0, path, start, sizes)
        streamer.stream_files([request], None, "cpu", False)
        for _, place, buffer in sorted(streamer.get_chunks(), key=lambda chunk: chunk[1]):
            one = tensors[place]
            made = headers(api).create_torch_tensor(buffer.clone(), one)
            told(one.name, lambda: (made.dtype, tuple(made.shape), made.tolist()))  # noqa: B023
    return told.steps


@case(FILES)
def metadata(api: Any, root: str) -> Steps:
    """SafetensorMetadata and create_torch_tensor."""
    told = Told(root)
    make = headers(api).SafetensorMetadata
    field = {"dtype": "F32", "shape": [2, 2], "data_offsets": [8, 24]}

    def made(**changed: object) -> tuple[object, ...]:
        one = make("x", field | changed)
        return (
            one.name,
            one.shape,
            one.dtype,
            one.offsets.start,
            one.offsets.end,
            one.get_bytesize(),
        )

    told("whole", made)
    for key, value in (("dtype", "XX"), ("data_offsets", [8, 20]), ("shape", [3]), ("shape", [])):
        told(f"{key}={value}", lambda: made(**{key: value}))  # noqa: B023
    one = make("x", field)
    for size in (16, 12, 20, 0):
        flat = torch.zeros(size, dtype=torch.uint8)
        told(f"{size} bytes", lambda: headers(api).create_torch_tensor(flat, one))  # noqa: B023
    shifted = torch.zeros(17, dtype=torch.uint8)[1:]
    told("unaligned", headers(api).create_torch_tensor, shifted, one)
    told("requires_alignment_copy", headers(api).requires_alignment_copy, shifted, one)
    told("element_size_of", headers(api).element_size_of, torch.bfloat16)
    return told.steps


@case(FILES)
def kinds_of_paths(api: Any, root: str) -> Steps:
    """Kinds of paths and devices."""
    told = Told(root)
    paths = module(api, "s3_utils.s3_utils")
    for path in ("s3://b/k", "gs://b/k", "az://b/k", "/s3://", "S3://b"):
        kinds = (paths.is_s3_path, paths.is_gs_path, paths.is_azure_path)
        told(path, lambda: [kind(path) for kind in kinds])  # noqa: B023
    told("filter_allow", paths.filter_allow, ["a.json", "b/c.json", "d"], ["*.json"])
    told("filter_ignore", paths.filter_ignore, ["a.json", "b/c.json", "d"], ["*.json"])
    files = module(api, "file_streamer.file_streamer")
    for device in (None, "cpu", "cuda:1", "gpu", torch.device("cpu")):
        told(f"host_or_device({device})", files.host_or_device, device)
    for some in (["a", "b"], ["s3://a", "b"], ["s3://a", "gs://b"], []):
        told(f"homogeneous_paths({some})", files.homogeneous_paths, some)
    return told.steps


@case(FILES)
def mock(api: Any, root: str) -> Steps:
    """The mock that stands for an object store."""
    told = Told(root)
    patcher = module(api, "safetensors_streamer.streamer_mock").StreamerPatcher(root)
    for uri in ("s3://b/m2", "gs://b/m2/", "s3://b/none"):
        told(f"list {uri}", lambda: named(patcher.shim_list_safetensors(uri)))  # noqa: B023
    for path in ("s3://b/m/x", "gs://b/m", "az://b/m", "/m"):
        told(f"is_remote_path {path}", patcher.is_remote_path, path)
        told(f"local path of {path}", patcher.convert_remote_path_to_local_path, path)
    back = patcher.convert_local_path_to_mocked_remote_path
    told("remote path", back, f"{root}/m/one.safetensors", "s3://b/m")

    def streamed(*paths: str, **options: Any) -> list[str]:
        with patcher.create_mock_streamer() as streamer:
            streamer.stream_files(list(paths), **options)
            return sorted(name for name, _ in streamer.get_tensors())

    told("stream_files", streamed, "s3://b/m/one.safetensors")
    told("stream_files of a path", streamed, f"{root}/m/one.safetensors")
    told("stream_files of nothing", streamed, "s3://b/none.safetensors")
    told("pull_files of a path", patcher.shim_pull_files, f"{root}/m", f"{root}/pulled")
    return told.steps


@case(*both)
def alone(api: Any, root: str) -> Steps:
    """DistributedStreamer without a process group."""
    told = Told(root)
    request = api.FileChunks(3, f"{root}/m/one.safetensors", [0, 8], [2, 2])
    with api.DistributedStreamer() as streamer:
        for wanted in (False, True):
            told("stream_files", streamer.stream_files, [request], None, "cpu", wanted)
            told("is_distributed", lambda: streamer.is_distributed)
            told("get_group_size", streamer.get_group_size)
            told("get_chunks", lambda: named([(i, p) for i, p, _ in streamer.get_chunks()]))
    return told.steps
