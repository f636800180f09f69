"""Bad input, end to end: the error has the right class, object and remedy, and the daemon serves
the next client.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from streamer_client.client import Client, daemon_client
from streamer_client.contract.errors import (
    CorruptCheckpoint,
    SourceChanged,
    SourceError,
    SourceNotFound,
    StreamerError,
)
from streamer_client.storage.local_files import open_local
from tests.support.checkpoints import one_of_each, random_tensor, write_model, write_shard
from tests.support.daemon import BLOCK, OBEYS_FILE_MODES, DaemonProcess, daemons
from tests.support.raw_client import RawClient
from tests.support.safetensors_files import built, field, with_length
from tests.support.unprivileged import as_nobody, open_to_others
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def served() -> Iterator[DaemonProcess]:
    with daemons() as made:
        yield made.start()


@pytest.fixture
def client(served: DaemonProcess) -> Iterator[Client]:
    with daemon_client(served.socket) as opened:
        yield opened


@pytest.fixture(autouse=True)
def serves_the_next(
    served: DaemonProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Check after a test that a good checkpoint loads, nothing is leased, no worker died and
    nothing crashed.
    """
    yield
    good = tmp_path_factory.mktemp("good")
    (file,) = write_model(good, shards=1, blocks=3)
    with RawClient(served.socket) as raw:
        assert raw.open(str(good)).read_all() == [file.read_bytes()]
    eventually(lambda: served.status()["memory"]["committed_bytes"] == 0)
    assert served.totals()["worker_restarts"] == 0
    assert "Traceback" not in served.log


def refusal(client: Client, source: Path, **options: object) -> StreamerError:
    """The error with which a load fails, whether opening raises it or reading does."""
    with pytest.raises(StreamerError) as caught, client.open(source, **options) as checkpoint:  # type: ignore[arg-type]
        dict(checkpoint.tensors())
    return caught.value


F32 = field("F32", [2], 0, 8)
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "seven bytes": (b"1234567", "cut short"),
    "header beyond the file": ((1000).to_bytes(8, "little") + b"{}", "cut short within the header"),
    "header over 100 MB": ((100_000_001).to_bytes(8, "little") + b"{}", "100000000"),
    "header length of all ones": (b"\xff" * 8 + b"{}", "header"),
    "not UTF-8": (with_length(b'{"\xff": 1}'), "UTF-8"),
    "not JSON": (with_length(b'{"a": '), "JSON"),
    "JSON but no object": (with_length(b"[1, 2]"), "JSON object"),
    "overlap": (built({"a": F32, "b": field("F32", [2], 4, 12)}, 12), "overlap"),
    "gap": (built({"a": F32, "b": field("F32", [2], 12, 20)}, 20), "gap"),
    "does not begin at 0": (built({"a": field("F32", [2], 4, 12)}, 12), "instead of 0"),
    "offsets beyond the file": (built({"a": field("F32", [200], 0, 800)}, 8), "cut short"),
    "decreasing offsets": (built({"a": field("F32", [2], 8, 0)}, 8), "decreasing"),
    "shape against bytes": (built({"a": field("F32", [3], 0, 8)}, 8), "takes 12 bytes"),
    "shape that overflows": (built({"a": field("F32", [2**40, 2**40], 0, 8)}, 8), "overflows"),
    "unknown dtype": (built({"a": field("Q4_K", [2], 0, 8)}, 8), "unknown dtype"),
    "cut short": (built({"a": field("F32", [4], 0, 16)}, 9), "cut short"),
    "trailing bytes": (built({"a": F32}, 8) + b"more", "4 trailing bytes"),
    "git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "lfs pull"),
}


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_corrupt_file(client: Client, tmp_path: Path, name: str, hold: bool) -> None:
    data, text = BAD_FILES[name]
    write_shard(tmp_path / "m-0.safetensors", {"good": random_tensor("F32", (3,))})
    bad = tmp_path / "m-1.safetensors"
    bad.write_bytes(data)
    error = refusal(client, tmp_path, hold=hold)
    assert type(error) is CorruptCheckpoint
    assert str(error).startswith(f"{bad}: ")
    assert text in str(error)
    assert ";" in str(error), "no remedy"


def test_missing_and_unexpected_parameters_are_named(client: Client, tmp_path: Path) -> None:
    stored = {"a": random_tensor("F32", (3,)), "b": random_tensor("F32", (3,))}
    path = write_shard(tmp_path / "m.safetensors", stored)
    a, b, c = torch.zeros(3), torch.zeros(3), torch.zeros(3)
    with client.open(path) as checkpoint, pytest.raises(SourceError, match=rf"{path}.* c, .*model"):
        checkpoint.load_into({"a": a, "b": b, "c": c})
    with client.open(path) as checkpoint, pytest.raises(SourceError, match=rf"{path} has b, .*not"):
        checkpoint.load_into({"a": a})


def test_no_file_for_the_pattern(client: Client, tmp_path: Path) -> None:
    write_shard(tmp_path / "model-rank-0-part-0.safetensors", {"a": random_tensor("F32", (3,))})
    error = refusal(client, tmp_path, pattern="model-rank-1-part-*.safetensors")
    assert type(error) is SourceNotFound
    assert f"{tmp_path}: no file matches 'model-rank-1-part-*.safetensors'" in str(error)
    assert "model-rank-0-part-0.safetensors" in str(error)
    assert "check the directory and the pattern" in str(error)


def _nothing(path: Path) -> Path:
    return path / "nowhere"


def _directory(path: Path) -> Path:
    (path / "m.safetensors").mkdir()
    return path


def _dead_link(path: Path) -> Path:
    (path / "m.safetensors").symlink_to(path / "gone")
    return path


def _circle(path: Path) -> Path:
    (path / "m.safetensors").symlink_to(path / "m.safetensors")
    return path


def _fifo(path: Path) -> Path:
    os.mkfifo(path / "m.safetensors")
    return path


@pytest.mark.parametrize(
    ("make", "kind", "texts"),
    [
        (_nothing, SourceNotFound, ["nowhere", "check the path"]),
        (_directory, SourceError, ["m.safetensors", "is a directory", "name the files in it"]),
        (_dead_link, SourceError, ["m.safetensors", "symbolic link to", "download"]),
        (_circle, SourceError, ["m.safetensors", "circle"]),
        (_fifo, SourceError, ["m.safetensors", "no regular file"]),
    ],
)
def test_not_a_file(
    client: Client,
    tmp_path: Path,
    make: Callable[[Path], Path],
    kind: type[StreamerError],
    texts: list[str],
) -> None:
    error = refusal(client, make(tmp_path))
    assert type(error) is kind
    for text in texts:
        assert text in str(error)


# --- the file changes while it is being loaded --------------------------------------------------


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _shrink(path: Path) -> None:
    os.truncate(path, 3 * BLOCK)


def _vanish(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def _rewrite(path: Path) -> None:
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.write(bytes(len(data)))


@pytest.mark.parametrize("change", [_grow, _shrink, _rewrite])
def test_a_file_that_changes_during_the_load(
    client: Client, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    first, second = write_model(tmp_path / "m", shards=2, blocks=24)
    with client.open(tmp_path / "m", hold=False, memory_limit=0) as checkpoint:
        tensors = checkpoint.tensors()
        next(tensors)
        change(second)
        with pytest.raises(SourceChanged) as caught:
            list(tensors)
    assert str(second) in str(caught.value)
    assert "open the checkpoint again" in str(caught.value)
    change(first)
    again = write_model(tmp_path / "m", shards=2, blocks=24, seed=5)
    with client.open(tmp_path / "m", hold=False) as checkpoint:
        assert sum(tensor.numel() for _, tensor in checkpoint.tensors()) < 48 * BLOCK
    assert len(again) == 2


@pytest.mark.parametrize("change", [_replace, _vanish])
@pytest.mark.parametrize("which", [0, 1])
def test_a_name_that_leads_elsewhere_changes_no_load(
    client: Client, tmp_path: Path, change: Callable[[Path], None], which: int
) -> None:
    """A load opens a file once and reads the file that it opened, wherever the name leads later.

    A client that opens the name after the change gets the file to which the name leads by then.
    """
    files = write_model(tmp_path / "m", shards=2, blocks=24)
    expected = {str(file): file.read_bytes() for file in files}
    with client.open(tmp_path / "m", hold=False, memory_limit=0) as checkpoint:
        tensors = checkpoint.tensors()
        name, first = next(tensors)
        change(files[which])
        found = {name: first, **dict(tensors)}
        for name, entry in checkpoint.catalog.items():
            assert bytes(found[name].numpy()) == expected[entry.uri][entry.start : entry.stop]
    again = write_model(tmp_path / "m", shards=2, blocks=24, seed=5)
    with client.open(tmp_path / "m", hold=False) as checkpoint:
        found = dict(checkpoint.tensors())
        for name, entry in checkpoint.catalog.items():
            stored = Path(entry.uri).read_bytes()[entry.start : entry.stop]
            assert bytes(found[name].numpy()) == stored
    assert len(again) == 2


def test_others_go_on_while_one_shard_fails(served: DaemonProcess, tmp_path: Path) -> None:
    (good,) = write_model(tmp_path / "good", shards=1, blocks=24)
    (bad,) = write_model(tmp_path / "bad", shards=1, blocks=24)
    with RawClient(served.socket) as one, RawClient(served.socket) as two:
        ours = one.open(str(tmp_path / "good"), memory_limit=0)
        theirs = two.open(str(tmp_path / "bad"), memory_limit=0)
        ours.await_grants(2)
        theirs.await_grants(2)
        _grow(bad)
        theirs.consume(set(theirs.granted))
        assert two.receive().code == "source-changed"  # type: ignore[union-attr]
        # Messages about blocks of a failed shard change nothing.
        theirs.want((0, 0, 24))
        theirs.want((0, 5, 6))
        assert ours.read_all() == [good.read_bytes()]


# --- no permission ------------------------------------------------------------------------------


def test_no_permission(tmp_path: Path) -> None:
    (file,) = write_model(tmp_path / "m", shards=1, blocks=2)
    open_to_others(tmp_path)
    file.chmod(0)
    told = as_nobody(lambda: open_local(str(tmp_path / "m"), None, None))
    assert told.startswith(f"SourceForbidden: {file}: no permission for user id ")
    assert "chmod" in told
    file.parent.chmod(0)
    told = as_nobody(lambda: open_local(str(tmp_path / "m"), None, None))
    assert told.startswith(f"SourceForbidden: {file.parent}: no permission")
    file.parent.chmod(0o755)


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root, and setpriv to have the daemon run with less",
)
def test_the_rights_that_count_are_the_clients(tmp_path: Path) -> None:
    """The client may read a file that the daemon may not: it is served from memory all the same."""
    (file,) = write_model(tmp_path / "m", shards=1, blocks=2)
    expected = file.read_bytes()
    file.chmod(0)
    file.parent.chmod(0)
    with daemons() as made:
        daemon = made.start(before=OBEYS_FILE_MODES)
        with daemon_client(daemon.socket) as client, client.open(tmp_path / "m") as checkpoint:
            found = dict(checkpoint.tensors())
            assert checkpoint.stats.mode == "daemon"
            for name, entry in checkpoint.catalog.items():
                assert bytes(found[name].numpy()) == expected[entry.start : entry.stop]
            found.clear()


# --- unusual and right --------------------------------------------------------------------------


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("pad", [True, False])
def test_all_that_is_unusual_and_right(
    client: Client, tmp_path: Path, hold: bool, pad: bool
) -> None:
    tiny = {f"tiny.{place:04d}": random_tensor("I16", (3,), place) for place in range(3000)}
    parts = [one_of_each(), {}, {"only.empty": random_tensor("F32", (0,))}, tiny]
    for place, tensors in enumerate(parts):
        write_shard(tmp_path / f"m-{place}.safetensors", tensors, pad=pad)
    stored = {name: entry for tensors in parts for name, entry in tensors.items()}
    with client.open(tmp_path, hold=hold, memory_limit=-1 if hold else 0) as checkpoint:
        found = dict(checkpoint.tensors())
    assert found.keys() == stored.keys()
    for name, (_, _, data) in stored.items():
        flat = found[name].contiguous().reshape(-1)
        assert bytes(flat.view(torch.uint8).numpy()) == data, name
