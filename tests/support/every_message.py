"""One instance of every message of the protocol, with no field left at its default."""

from __future__ import annotations

from typing import Final

from streamer_client.contract import messages as m
from streamer_client.contract.layout import BlockRange

_RANGES: Final = (BlockRange(0, 0, 4), BlockRange(2, 7, 1000))
_SHARD: Final = m.OpenedShard(
    "/m/a.safetensors", "file:1:2:3:4", "/streamerd.0badcafe.1", 2**33, True
)

CLIENT: Final[tuple[m.ClientMessage, ...]] = (
    m.Hello(1, 2, "0.1.0", 4321, 4026531836, "rank 0"),
    m.Open(2, 7, "/m", ("a", "b"), "*.bin", "headers", True, 2**33, 16, {"AWS_REGION": "eu"}),
    m.Want(7, _RANGES),
    m.Consumed(7, _RANGES),
    m.ReleaseShards(7, (0, 3)),
    m.Close(7),
    m.Heartbeat(),
    m.Goodbye(),
    m.GetStatus(3),
    m.GetConfig(4),
    m.Prefetch(5, "/m", "*.bin", True, 1 << 30, {"HOME": "/é"}, ("/m/a.bin",)),
    m.Evict(6, ("/m", "/n")),
    m.Pin(7, "/m"),
    m.Unpin(8, "/m"),
    m.Renew(7, {"AWS_SESSION_TOKEN": "t"}),
    m.Verify(9, "/m", True, {"AWS_REGION": "eu"}),
)

DAEMON: Final[tuple[m.DaemonMessage, ...]] = (
    m.Welcome(1, 2, "0.1.0", 99, "0badcafe", 2.5),
    m.Opened(2, 7, 8 << 20, (_SHARD,), _RANGES, 12345),
    m.Granted(7, _RANGES),
    m.ShardFailed(7, 1, "source-changed", "/m/a: changed"),
    m.CredentialsWanted(7),
    m.Waiting(7, 300, 200, 1000),
    m.Failed(-1, "protocol-mismatch", "no"),
    m.Done(6, "evicted 3 shards"),
    m.Accepted(5, ("/m/a",), 2**40),
    m.Verifying(9, 5, 2**40),
    m.Verified(9, 2**40, 7, (m.Finding("/m/a", 3, 24, 32, "differs"),)),
    m.Status(3, {"pid": 1, "memory": {"limit_bytes": 5}}),
    m.Config(4, {"socket": {"value": "/s", "origin": "flag"}}),
    m.Heartbeat(),
)
