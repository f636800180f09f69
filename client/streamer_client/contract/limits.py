"""How much of anything a peer may ask for: every bound, with its reason beside it.

Owns the numbers alone; `checks` holds messages against them, the catalog headers, and the daemon
what takes an account of its own (peers, queues, loads). Each is far above what real models and
real ranks need, and low enough that nobody who reaches it harms the others. Pure.
"""

from __future__ import annotations

from typing import Final

# --- messages -----------------------------------------------------------------------------------

MAX_MESSAGE_BYTES: Final = 4 << 20
"""Of one message from a client, looked at before it is decoded. The longest honest one opens
`MAX_SHARDS` objects by name, some 300 bytes each. Decoding costs up to 20 times a message's size in
memory (a million ranges of four bytes each), and a second for each 10 MB."""

MAX_ANSWER_BYTES: Final = 32 << 20
"""Of one message from the daemon. The longest is the status of a daemon that holds `MAX_SHARDS`
shards with eight leases on each."""

MAX_QUEUED_BYTES: Final = 2 * MAX_ANSWER_BYTES
"""That wait for a peer that does not read; then it is disconnected. The longest answer must fit
while another is still on its way."""

MAX_ENVIRONMENT_BYTES: Final = 512 << 10
"""Of all names and values that come with a request. The certificates of a caller's authorities are
the longest, 384 KiB at most and 220 where they are a whole system's. Linux takes 128 KiB for one
variable, and the longest credentials, a chain of keys in JSON, have some 10."""

MAX_LABEL_CHARACTERS: Final = 100
"""Of what `status` shows for a client; longer labels are cut. They are repeated for each lease."""

MAX_SOURCE_CHARACTERS: Final = 8192
"""Of a source, a pattern or a file's name: a path, or a URL, of which servers take 8 KiB."""

MAX_NAME_CHARACTERS: Final = 256
"""Of a version or an error's code."""

MAX_TEXT_CHARACTERS: Final = 1 << 20
"""Of an error's text or a request's outcome: it may name every shard of a large checkpoint."""

MAX_SHOWN_CHARACTERS: Final = 200
"""Of a text from outside within a log line or an error's text: two lines of a terminal."""

MAX_LOGGED_CHARACTERS: Final = 16 << 10
"""Of one line of a log, far below where the journal cuts it in two (48 KiB)."""

MAX_RANGES: Final = 1 << 18
"""Of one message: a checkpoint of 2 TB has as many blocks of 8 MiB, and neighbours are one range.
So many take 0.4 s to decode; the bound is held before the first one is."""

MAX_BODY_DEPTH: Final = 16
"""Levels of a status or configuration; the documented ones have six. Deeper ones could not be
written as JSON again."""

MAX_NUMBER: Final = 2**63 - 1
"""Of anything that counts bytes, blocks or requests: what a file's offset can be."""

MAX_HEARTBEAT_S: Final = 3600.0
"""A daemon that is looked for less often is not looked for."""

# --- a peer, and a user -------------------------------------------------------------------------

MAX_REQUESTS: Final = 64
"""Of one peer that are under way. `streamerctl` has one, a rank one for each load that it
opens."""

MAX_LOADS: Final = 256
"""Of one peer that are open or being opened. A rank has one for each checkpoint (a model, its draft
model, adapters), the Run:ai-style API one for each streamer."""

MAX_CLIENTS_PER_USER: Final = 256
"""Connections of one user's processes. Sixteen ranks of ten models are 160; each takes three
descriptors of the daemon, and a hard limit of 4,096 is the least that systems set."""

MAX_PREFETCHES_PER_USER: Final = 64
"""That run for one user; they outlive the connection that asked, so nothing else ends them."""

# --- checkpoints --------------------------------------------------------------------------------

MAX_SHARDS: Final = 10_000
"""Of one open. The largest checkpoints have some 200 files; one with a file for each of 60 layers,
64 ranks and two kinds would have 7,680."""

MAX_SHARD_BYTES: Final = 4 << 40
"""Of one file: twice the largest checkpoint (Kimi K2 in bfloat16, 2 TB) written as one. A file's
size is only a claim, a sparse one of 4 EiB costs nothing, and the daemon's account takes 22 bytes
for each block."""

MAX_SHARD_BLOCKS: Final = 1 << 20
"""Of one file: twice those of `MAX_SHARD_BYTES` at 8 MiB, or 23 MB of account, for smaller
blocks."""

MAX_LOAD_BLOCKS: Final = 2 << 20
"""Of all files of an open: 16 TiB at 8 MiB. `MAX_SHARDS` files of `MAX_SHARD_BLOCKS` would take
230 GB of account."""

# --- headers ------------------------------------------------------------------------------------

MAX_HEADER_BYTES: Final = 100_000_000
"""The longest header that the `safetensors` package reads, its eight length bytes not counted; it
is kept in memory once, as it was read, until it is parsed."""

HEADER_PIECE_BYTES: Final = 1 << 20
"""Of a header that are parsed at once: what is decoded and not yet checked is never more than a
piece's, some 20 times its size."""

MAX_CATALOG_ENTRIES: Final = 1_000_000
"""Tensors of one file. Kimi K2 with its scales has some 280,000 in all its files together; a
million take 250 MB of memory."""

MAX_METADATA_ENTRIES: Final = MAX_CATALOG_ENTRIES
"""Of `__metadata__` in one file: mostly one, and one for each tensor where kinds of quantization
are told there."""

MAX_DIMENSIONS: Final = 64
"""Of a tensor: as many as torch and numpy work with."""
