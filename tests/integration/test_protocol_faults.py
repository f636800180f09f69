"""What comes over the socket may be anything: the daemon answers clearly and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamer_client.client import daemon_client
from streamer_client.contract import messages as m
from streamer_client.contract.errors import ProtocolMismatch
from streamer_client.contract.layout import BlockRange
from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess, daemons
from tests.support.raw_client import RawClient, RawLoad
from tests.support.scripted_daemon import Script, scripted_daemon
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def served() -> Iterator[DaemonProcess]:
    """One daemon for all of them: each finds it whole after the others."""
    with daemons() as made:
        yield made.start()


@pytest.fixture
def model(tmp_path: Path) -> str:
    write_model(tmp_path / "m", shards=2, blocks=3)
    return str(tmp_path / "m")


@pytest.fixture(autouse=True)
def goes_on(served: DaemonProcess, model: str) -> Iterator[None]:
    """Whatever a test said, the next client is served, and nothing is left of the last one."""
    yield
    with RawClient(served.socket) as client:
        load = client.open(model)
        assert len(load.read_all()) == 2
    status = served.status()
    assert not any(row["leases"] for row in served.shards().values())
    assert status["memory"]["committed_bytes"] == 0
    assert served.process.poll() is None
    assert "Traceback" not in served.log


def test_client_of_another_protocol(served: DaemonProcess) -> None:
    with RawClient(served.socket, greet=False) as client:
        failed = client.refused(client.hello(protocol=m.PROTOCOL + 1))
        assert failed.code == "protocol-mismatch"
        assert f"protocol {m.PROTOCOL + 1}" in failed.message
        assert "same version on both sides" in failed.message
        refused = client.refused(m.GetStatus(5))
        assert (refused.request_id, refused.code) == (5, "protocol-mismatch")


def test_daemon_of_another_protocol(socket_path: Path) -> None:
    script = Script(protocol=m.PROTOCOL + 1)
    with scripted_daemon(socket_path, script), pytest.raises(ProtocolMismatch) as caught:
        daemon_client(str(socket_path))
    assert f"protocol {m.PROTOCOL + 1}" in str(caught.value)
    assert str(socket_path) in str(caught.value)
    assert "same version" in str(caught.value)


def test_first_message_must_be_hello(served: DaemonProcess, model: str) -> None:
    with RawClient(served.socket, greet=False) as client:
        for message in (m.Open(1, 1, model), m.Prefetch(1, model), m.Evict(1)):
            failed = client.refused(message)
            assert (failed.request_id, failed.code) == (1, "protocol-mismatch")
            assert "Hello" in failed.message


def _tagged(kind: str, **fields: object) -> bytes:
    return msgspec.msgpack.encode({"type": kind, **fields})


@pytest.mark.parametrize(
    "frames",
    [
        (b"",),
        (b"\xc1",),
        (b"\x93\x01",),
        (bytes(range(256)) * 100,),
        (b"one", b"two"),
        (b"", b"", b""),
        (_tagged("Nothing"),),
        (_tagged("Open", request_id="one", load=1, source="/m"),),
        (_tagged("Open", request_id=1),),
        (_tagged("Consumed", load=1, ranges=[[0, 1]]),),
        (_tagged("Consumed", load=1, ranges=[["a", 0, 1]]),),
        (_tagged("Close", load=1.5),),
        (_tagged("GetStatus", request_id=1, surprise=True),),
        (msgspec.msgpack.encode([1, 2, 3]),),
        (m.encode(m.Granted(1, ())),),
    ],
)
def test_garbage_is_answered_and_does_no_harm(
    served: DaemonProcess, frames: tuple[bytes, ...]
) -> None:
    with RawClient(served.socket) as client:
        client.send_frames(*frames)
        failed = client.expect(m.Failed)
        assert (failed.request_id, failed.code) == (-1, "protocol-mismatch")
        client.request(m.GetStatus(9), m.Status)


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"want": "some"}, "protocol-mismatch", "all, headers, none"),
        ({"memory_limit": -2}, "config", "memory_limit must be -1, 0 or bytes, got -2"),
        ({"concurrency": 0}, "config", "concurrency must be at least 1"),
        ({"files": ()}, "config", "list of files is empty"),
        ({"files": ("m-0.safetensors", "./m-0.safetensors")}, "config", "twice"),
        ({"source": ""}, "config", "no path"),
        ({"source": "a\0b"}, "config", "no path"),
        ({"source": "gopher://x/y"}, "config", "gopher"),
    ],
)
def test_impossible_opens(
    served: DaemonProcess, model: str, changes: dict[str, Any], code: str, text: str
) -> None:
    with RawClient(served.socket) as client:
        load = RawLoad(client, **({"source": model} | changes))
        failed = client.expect(m.Failed)
        assert failed.code == code
        assert text in failed.message
        client.send(m.Close(load.number))


def test_a_load_number_in_use_is_refused(served: DaemonProcess, model: str) -> None:
    with RawClient(served.socket) as client:
        load = client.open(model, hold=True)
        load.await_grants(6)
        failed = client.refused(m.Open(77, load.number, model))
        assert (failed.request_id, failed.code) == (77, "protocol-mismatch")
        assert "open already" in failed.message


def test_the_same_load_twice_at_once(served: DaemonProcess, model: str) -> None:
    with RawClient(served.socket) as client:
        for request_id in range(1, 6):
            client.send(m.Open(request_id, 1, model, hold=True))
        answers = [client.receive() for _ in range(5)]
        opened = [answer for answer in answers if isinstance(answer, m.Opened)]
        assert len(opened) == 1
        assert sum(isinstance(answer, m.Failed) for answer in answers) == 4


@pytest.mark.parametrize("kind", [m.Consumed, m.Want])
@pytest.mark.parametrize(
    "bad", [(2, 0, 1), (-1, 0, 1), (0, 0, 4), (0, -1, 1), (0, 2, 1), (2**60, 0, 2**60)]
)
def test_ranges_outside_the_load(
    served: DaemonProcess,
    model: str,
    kind: type[m.Consumed | m.Want],
    bad: tuple[int, int, int],
) -> None:
    with RawClient(served.socket) as client:
        load = client.open(model, want="none")
        failed = client.refused(kind(load.number, (BlockRange(0, 0, 1), BlockRange(*bad))))
        assert failed.code == "protocol-mismatch"
        load.want((1, 0, 3))
        load.await_grants(3)


def test_words_about_loads_that_are_not_there(served: DaemonProcess, model: str) -> None:
    with RawClient(served.socket) as client:
        load = client.open(model, hold=True)
        load.await_grants(6)
        client.send(m.ReleaseShards(load.number, (7, -1)))
        client.send(m.ReleaseShards(99, (0,)))
        client.send(m.Consumed(99, (BlockRange(0, 0, 1),)))
        client.send(m.Want(99, (BlockRange(0, 0, 1),)))
        client.send(m.Close(99))
        load.close()
        load.close()
        load.want((0, 0, 1))
        client.request(m.GetStatus(9), m.Status)


def test_consuming_what_was_never_granted_takes_nothing_from_others(
    served: DaemonProcess, model: str
) -> None:
    with RawClient(served.socket) as reader, RawClient(served.socket) as other:
        load = reader.open(model)
        load.await_grants(2)
        stranger = other.open(model, want="none")
        other.send(m.Consumed(stranger.number, (BlockRange(0, 0, 3), BlockRange(1, 0, 3))))
        other.request(m.GetStatus(9), m.Status)
        assert len(load.read_all()) == 2


def test_close_and_goodbye_while_the_source_is_being_listed(
    served: DaemonProcess, model: str
) -> None:
    with RawClient(served.socket) as client:
        for _ in range(20):
            RawLoad(client, model).close()
        RawLoad(client, model, hold=True)
    eventually(lambda: not any(row["leases"] for row in served.shards().values()))


def test_hello_again_keeps_what_is_held(served: DaemonProcess, model: str) -> None:
    with RawClient(served.socket) as client:
        load = client.open(model, hold=True)
        load.await_grants(6)
        client.request(client.hello("again"), m.Welcome)
        leases = [lease for row in served.shards().values() for lease in row["leases"]]
        assert [lease["label"] for lease in leases if lease["label"] == "again"] == ["again"] * 2
