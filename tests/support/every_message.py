"""One instance of every message and packet of the protocol; each field differs from its default."""

from __future__ import annotations

from typing import Final

from streamer_client.contract import handover as h
from streamer_client.contract import messages as m
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.options import LoadOptions

_RANGES: Final = (BlockRange(0, 0, 4), BlockRange(2, 7, 1000))
_SHARD: Final = m.OpenedShard("/m/a.safetensors", "file:1:2:3:4", 2**33, True)
_OPTIONS: Final = LoadOptions(hold=False, memory_limit=2**33, concurrency=16)
_PROOF: Final = bytes(range(16))

CLIENT: Final[tuple[m.ClientMessage, ...]] = (
    m.Hello(1, 2, "0.1.0", 4321, "rank 0", 4026531840),
    m.Open(2, 7, "/m", 3, ("a", "b"), "*.bin", "none", _OPTIONS, {"AWS_REGION": "eu"}),
    m.Want(7, _RANGES),
    m.Consumed(7, _RANGES),
    m.Copied(2**33, 2**31, 2**30),
    m.ReleaseShards(7, (0, 3)),
    m.Close(7),
    m.Drop(3),
    m.Heartbeat(),
    m.Goodbye(),
    m.GetStatus(3),
    m.GetConfig(4),
    m.GetReport(10),
    m.Prefetch(5, "/m", 3, "*.bin", True, 1 << 30, {"HOME": "/é"}, ("/m/a.bin",)),
    m.Evict(6, ("/m", "/n"), 3),
    m.Pin(7, "/m", 3),
    m.Unpin(8, "/m", 3),
    m.Renew(7, {"AWS_SESSION_TOKEN": "t"}),
    m.Verify(9, "/m", 3, True, {"AWS_REGION": "eu"}),
)

DAEMON: Final[tuple[m.DaemonMessage, ...]] = (
    m.Welcome(1, 2, 2.5, _PROOF),
    m.Opened(2, 7, 8 << 20, (_SHARD,), _RANGES, 12345, False),
    m.Granted(7, _RANGES),
    m.ShardFailed(7, 1, "source-changed", "/m/a: changed"),
    m.Comparing(7),
    m.Compared(7),
    m.CredentialsWanted(7),
    m.Waiting(7, 300, 200, 1000),
    m.Failed(-1, "protocol-mismatch", "no"),
    m.Done(6, "evicted 3 shards"),
    m.Accepted(5, ("0badcafe00000001",), 2**40),
    m.Verifying(9, 5, 2**40),
    m.Verified(9, 2**40, 7, (m.Finding("/m/a", 3, 24, 32, "differs"),)),
    m.Status(3, {"pid": 1, "memory": {"limit_bytes": 5}}),
    m.Report(10, {"pid": 1, "loads": [{"number": 1}]}),
    m.Config(4, {"socket": {"value": "/s", "origin": "flag"}}),
    m.Heartbeat(),
)

PACKETS_OF_CLIENT: Final[tuple[h.FromClient, ...]] = (
    h.Files(3, (h.HandedFile("/m/a.safetensors", True), h.HandedFile("/m/é", False))),
    h.Got(7),
)

PACKETS_OF_DAEMON: Final[tuple[h.FromDaemon, ...]] = (
    h.Greeting(2, "0.1.0", bytes(16), _PROOF),
    h.Taken(3, 2),
    h.Slabs(7, (0, 2)),
    h.Refused("refused", "no", 3),
)
