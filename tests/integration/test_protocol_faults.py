"""Anything may come over the socket: the daemon answers clearly and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamer_client.client import daemon_client
from streamer_client.contract import messages as m
from streamer_client.contract.codec import encode
from streamer_client.contract.errors import ProtocolMismatch
from streamer_client.contract.layout import BlockRange
from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess, daemons
from tests.support.daemon_script import Script
from tests.support.raw_client import RawClient
from tests.support.raw_load import RawLoad
from tests.support.scripted_daemon import scripted_daemon
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def served() -> Iterator[DaemonProcess]:
    """One daemon for all tests: each test finds it whole after the ones before."""
    with daemons() as made:
        yield made.start()


@pytest.fixture
def model(tmp_path: Path) -> str:
    write_model(tmp_path / "m", shards=2, blocks=3)
    return str(tmp_path / "m")


@pytest.fixture(autouse=True)
def goes_on(served: DaemonProcess, model: str) -> Iterator[None]:
    """Check after each test that the next client is served, and that nothing is left of the last
    one.
    """
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
        transfer = client.hand_over_source(model)
        for message in (
            m.Open(1, 1, model, transfer),
            m.Prefetch(1, model, transfer),
            m.Evict(1),
            m.GetStatus(1),
        ):
            failed = client.refused(message)
            assert (failed.request_id, failed.code) == (1, "protocol-mismatch")
            assert "Hello" in failed.message


def test_a_message_without_a_token(served: DaemonProcess) -> None:
    with RawClient(served.socket) as client:
        for frame in (b"", b"short", bytes(16), bytes(16) + encode(m.GetStatus(1))):
            client.send_frames(frame)
            failed = client.expect(m.Failed)
            assert (failed.request_id, failed.code) == (-1, "protocol-mismatch")
            assert "token" in failed.message
        client.request(m.GetStatus(9), m.Status)


def test_another_clients_token(served: DaemonProcess, model: str) -> None:
    """The first peer that presents a token is the token's client.

    No other peer is, whatever it knows.
    """
    with RawClient(served.socket) as victim, RawClient(served.socket) as thief:
        load = victim.open(model, hold=True)
        load.await_grants(6)
        own, thief.token = thief.token, victim.token
        for message in (m.GetStatus(1), m.Close(load.number), thief.hello(), m.Goodbye()):
            failed = thief.refused(message)
            assert failed.code == "protocol-mismatch"
            assert "belongs to another connection" in failed.message
        thief.token = own
        thief.request(m.GetStatus(9), m.Status)
        assert len(load.read_all()) == 2


def test_a_token_ends_with_its_connection(served: DaemonProcess, model: str) -> None:
    with RawClient(served.socket) as client, RawClient(served.socket) as witness:
        client.open(model, hold=True).await_grants(6)
        client.connection.close()
        eventually(lambda: not any(row["leases"] for row in served.shards().values()))
        failed = client.refused(m.GetStatus(1))
        assert (failed.request_id, failed.code) == (-1, "protocol-mismatch")
        assert "no token of a living connection" in failed.message
        witness.request(m.GetStatus(9), m.Status)


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
        (encode(m.Granted(1, ())),),
    ],
)
def test_garbage_is_answered_and_does_no_harm(
    served: DaemonProcess, frames: tuple[bytes, ...]
) -> None:
    with RawClient(served.socket) as client:
        client.send_frames(client.token + frames[0], *frames[1:])
        failed = client.expect(m.Failed)
        assert (failed.request_id, failed.code) == (-1, "protocol-mismatch")
        client.request(m.GetStatus(9), m.Status)


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"want": "some"}, "protocol-mismatch", "Invalid enum value 'some' - at `$.want`"),
        ({"memory_limit": -2}, "config", "memory_limit is -2; it is -1, 0 or a number of bytes"),
        ({"source": "a\0b", "transfer": 1}, "config", "holds a null"),
        ({"concurrency": 0}, "config", "concurrency is 0; it is a positive number of reads"),
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


@pytest.mark.parametrize(
    "named",
    [
        {"source": "/etc"},
        {"source": ""},
        {"source": "file:///etc"},
        {"source": "s3://bucket/m", "files": ("/etc/passwd",)},
        {"source": "s3://bucket/m", "files": ("s3://bucket/m/a", "m-0.safetensors")},
        {"source": "/etc", "files": ()},
    ],
)
def test_no_path_is_ever_opened_for_a_client(served: DaemonProcess, named: dict[str, Any]) -> None:
    """A path may mean different files in different processes; only a descriptor says which file is
    meant.
    """
    with RawClient(served.socket) as client:
        for message in (m.Open(1, 1, **named), m.Prefetch(1, **named)):
            failed = client.refused(message)
            assert (failed.request_id, failed.code) == (1, "protocol-mismatch")
            assert "hand the files over" in failed.message


def test_transfers_that_are_not_there(served: DaemonProcess, model: str) -> None:
    with RawClient(served.socket) as client, RawClient(served.socket) as other:
        theirs = other.hand_over_source(model)
        dropped = client.hand_over_source(model)
        client.send(m.Drop(dropped))
        for number in (dropped, theirs + 1, 2**40):
            failed = client.refused(m.Open(1, number, model, number))
            assert (failed.request_id, failed.code) == (1, "protocol-mismatch")
            assert f"transfer {number} was not begun" in failed.message
        client.send(m.Drop(99))
        client.request(m.GetStatus(9), m.Status)


def test_a_load_number_in_use_is_refused(served: DaemonProcess, model: str) -> None:
    with RawClient(served.socket) as client:
        load = client.open(model, hold=True)
        load.await_grants(6)
        failed = client.refused(m.Open(77, load.number, model))
        assert (failed.request_id, failed.code) == (77, "protocol-mismatch")
        assert "open already" in failed.message


def test_the_same_load_twice_at_once(served: DaemonProcess, model: str) -> None:
    with RawClient(served.socket) as client:
        transfer = client.hand_over_source(model)
        for request_id in range(1, 6):
            client.send(m.Open(request_id, 1, model, transfer))
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
        client.send(m.ReleaseShards(load.number, (7,)))
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


def test_hello_again_is_refused_and_keeps_what_is_held(served: DaemonProcess, model: str) -> None:
    with RawClient(served.socket, "once") as client:
        load = client.open(model, hold=True)
        load.await_grants(6)
        hello = client.hello("again")
        failed = client.refused(hello)
        assert (failed.request_id, failed.code) == (hello.request_id, "protocol-mismatch")
        assert "said Hello already" in failed.message
        leases = [lease for row in served.shards().values() for lease in row["leases"]]
        assert [lease["label"] for lease in leases if lease["label"] == "once"] == ["once"] * 2
        assert len(load.read_all()) == 2
