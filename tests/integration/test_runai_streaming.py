"""Run:ai's API through a real daemon and without one: the bytes that it reads, and the lifetime of
its tensors.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file

from streamer_client import SourceChanged, SourceError, StreamerError
from streamer_client.copy.feed import FeedClosed
from streamer_client.runai import FileChunks, FileStreamer, SafetensorsStreamer
from tests.support.checkpoints import random_tensor, write_blocks, write_model, write_shard
from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.waiting import eventually

BLOCKS = 6
MODES = ["direct", "required"]


@pytest.fixture
def daemon(streamerd: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> DaemonProcess:
    """A daemon that the API uses."""
    monkeypatch.setenv("STREAMERD_MODE", "required")
    monkeypatch.setenv("STREAMERD_SOCKET", streamerd.socket)
    return streamerd


@pytest.fixture(params=MODES)
def either_mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "required":
        request.getfixturevalue("daemon")
    else:
        monkeypatch.setenv("STREAMERD_MODE", request.param)
    return str(request.param)


def same(found: dict[str, torch.Tensor], path: Path) -> bool:
    stored = load_file(path)
    return found.keys() == stored.keys() and all(
        torch.equal(tensor, stored[name]) for name, tensor in found.items()
    )


def test_tensors_outlive_everything(tmp_path: Path, either_mode: str) -> None:
    path = write_blocks(tmp_path / "m.safetensors", BLOCKS)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        kept = dict(streamer.get_tensors())
        streamer.stream_files([str(path)], tensor_names=list(kept)[:2])
        some = dict(streamer.get_tensors())
    del streamer
    gc.collect()
    assert same(kept, path)
    assert all(torch.equal(some[name], kept[name]) for name in some)
    next(iter(some.values())).zero_()
    assert same(kept, path)


def test_paths_may_be_path_objects(tmp_path: Path, either_mode: str) -> None:
    path = write_blocks(tmp_path / "m.safetensors", 2)
    with SafetensorsStreamer() as streamer:
        # Path objects work, although the annotation promises only strings.
        streamer.stream_files([cast("str", path)])
        assert same(dict(streamer.get_tensors()), path)


def test_a_second_stream_ends_the_first(tmp_path: Path, either_mode: str) -> None:
    paths = write_model(tmp_path / "m", 2, BLOCKS)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(paths[0]))
        first = streamer.get_tensors()
        next(first)
        streamer.stream_file(str(paths[1]))
        with pytest.raises(FeedClosed):
            list(first)
        assert same(dict(streamer.get_tensors()), paths[1])


def test_leaving_ends_what_is_being_read(tmp_path: Path, either_mode: str) -> None:
    path = write_blocks(tmp_path / "m.safetensors", BLOCKS)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        unfinished = streamer.get_tensors()
        name, tensor = next(unfinished)
    with pytest.raises(ValueError, match="closed"):
        list(unfinished)
    assert torch.equal(tensor, load_file(path)[name])
    with pytest.raises(ValueError, match="not open"):
        streamer.stream_file(str(path))


def test_breaking_off_leaves_the_streamer_usable(tmp_path: Path, either_mode: str) -> None:
    path = write_blocks(tmp_path / "m.safetensors", BLOCKS)
    with FileStreamer() as streamer:
        for _ in range(2):
            streamer.stream_files([FileChunks.contiguous(0, str(path), 0, [BLOCK] * BLOCKS)])
            for _chunk in streamer.get_chunks():
                break
        streamer.stream_files([FileChunks(0, str(path), [0], [BLOCKS * BLOCK])])
        ((_, _, whole),) = streamer.get_chunks()
    assert bytes(whole.view(-1).tolist()) == path.read_bytes()


def test_overlapping_chunks_of_two_requests(tmp_path: Path, either_mode: str) -> None:
    path = write_blocks(tmp_path / "m.safetensors", BLOCKS)
    content = path.read_bytes()
    requests = [
        FileChunks(5, str(path), [BLOCK // 2, 0], [3 * BLOCK, 2 * BLOCK]),
        FileChunks(9, str(path), [BLOCKS * BLOCK - 1, 0], [1, BLOCKS * BLOCK]),
    ]
    with FileStreamer() as streamer:
        streamer.stream_files(requests)
        chunks = {(file, place): chunk for file, place, chunk in streamer.get_chunks()}
    assert set(chunks) == {(5, 0), (5, 1), (9, 0), (9, 1)}
    for request in requests:
        for place, (start, size) in enumerate(zip(request.offsets, request.sizes, strict=True)):
            chunk = chunks[request.id, place]
            assert chunk.shape == (1, size)
            assert bytes(chunk.view(-1).tolist()) == content[start : start + size]


def test_a_file_that_is_cut_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream does not end as if it were complete, and does not hang."""
    monkeypatch.setenv("STREAMERD_MODE", "direct")
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", "0")
    # The streamer raises this value to the least that it reads at once.
    monkeypatch.setenv("RUNAI_STREAMER_CHUNK_BYTESIZE", "1")
    path = write_shard(
        tmp_path / "m.safetensors",
        {f"t{place}": random_tensor("U8", (1 << 20,), place) for place in range(8)},
    )
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        tensors = streamer.get_tensors()
        next(tensors)
        os.truncate(path, 5 << 20)
        with pytest.raises(SourceChanged) as caught:
            list(tensors)
    assert isinstance(caught.value, ValueError)


def test_some_tensors_cost_their_blocks_only(tmp_path: Path, daemon: DaemonProcess) -> None:
    path = write_blocks(tmp_path / "m.safetensors", BLOCKS)
    last = list(load_file(path))[-1]
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path), tensor_names=[last])
        ((name, _),) = streamer.get_tensors()
    assert name == last
    assert daemon.totals()["source_read_bytes"] < BLOCKS * BLOCK


def test_streaming_twice_reads_once(tmp_path: Path, daemon: DaemonProcess) -> None:
    paths = write_model(tmp_path / "m", 2, BLOCKS)
    for _ in range(2):
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([str(path) for path in paths])
            count = sum(1 for _ in streamer.get_tensors())
    assert count == sum(len(load_file(path)) for path in paths)
    assert daemon.totals()["source_read_bytes"] == 2 * BLOCKS * BLOCK


def test_a_dropped_tensor_gives_its_memory_back(tmp_path: Path, daemon: DaemonProcess) -> None:
    path = write_blocks(tmp_path / "m.safetensors", BLOCKS)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        for _name, tensor in streamer.get_tensors():
            assert tensor.numel()
            del tensor
    gc.collect()
    eventually(lambda: daemon.status()["memory"]["leased_bytes"] == 0)


def test_a_memory_limit_of_the_call_wins(tmp_path: Path, daemon: DaemonProcess) -> None:
    path = write_blocks(tmp_path / "m.safetensors", BLOCKS)
    with FileStreamer() as streamer:
        with pytest.raises(StreamerError, match="memory_limit is -5"):
            streamer.stream_files([FileChunks(0, str(path), [0], [1])], memory_limit=-5)
        streamer.stream_files([FileChunks(0, str(path), [0], [BLOCKS * BLOCK])], memory_limit=0)
        ((_, _, chunk),) = streamer.get_chunks()
    assert bytes(chunk.view(-1).tolist()) == path.read_bytes()


def test_kinds_of_sources_do_not_mix(tmp_path: Path, either_mode: str) -> None:
    path = write_blocks(tmp_path / "m.safetensors", 2)
    with (
        SafetensorsStreamer() as streamer,
        pytest.raises(ValueError, match="files of plain paths and s3://"),
    ):
        streamer.stream_files([str(path), "s3://bucket/m.safetensors"])


def test_an_unknown_device_is_refused_before_anything_is_read(
    tmp_path: Path, daemon: DaemonProcess
) -> None:
    path = write_blocks(tmp_path / "m.safetensors", 2)
    with SafetensorsStreamer() as streamer, pytest.raises(ValueError, match="device 'gpu'"):
        streamer.stream_file(str(path), device="gpu")
    assert daemon.totals()["source_requests"] == 0


def test_an_error_leaves_the_streamer_usable(tmp_path: Path, either_mode: str) -> None:
    path = write_blocks(tmp_path / "m.safetensors", 2)
    with SafetensorsStreamer() as streamer:
        with pytest.raises(SourceError):
            streamer.stream_file(str(tmp_path / "none.safetensors"))
        assert list(streamer.get_tensors()) == []
        streamer.stream_file(str(path))
        assert same(dict(streamer.get_tensors()), path)
