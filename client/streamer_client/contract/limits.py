"""Every bound on what a peer may ask for, with its reason beside it.

Owns only the numbers. `checks.py` applies them to messages, `header.py` to the headers of files.
The daemon applies those for which it has to count: peers, queues, loads. Each bound is far above
what real models and real ranks need, and so low that a peer who reaches it harms nobody else. Pure.
"""

from __future__ import annotations

from typing import Final

# --- messages -----------------------------------------------------------------------------------

MAX_MESSAGE_BYTES: Final = 4 << 20
"""The longest message from a client; it is checked before decoding. The longest honest message
opens `MAX_SHARDS` objects by name, some 300 bytes each. Decoding a million ranges of four bytes
each takes 20 times their size in memory, and a second for each 10 MB."""

MAX_ANSWER_BYTES: Final = 32 << 20
"""The longest message from the daemon. The longest honest one is the status of a daemon that holds
`MAX_SHARDS` shards with eight leases on each."""

MAX_QUEUED_BYTES: Final = 2 * MAX_ANSWER_BYTES
"""The most bytes that may wait for a peer that does not read; a peer with more is disconnected. The
longest answer must fit while another is still on its way."""

MAX_ENVIRONMENT_BYTES: Final = 512 << 10
"""The most bytes of all names and values of the environment in a request. Certificates of
authorities are the longest: 384 KiB at most, and 220 KiB for those of a whole system. Linux takes
128 KiB for one variable. The longest credentials, a chain of keys in JSON, take some 10 KiB."""

MAX_LABEL_CHARACTERS: Final = 100
"""The longest label that `status` shows, once for each lease; longer ones are cut."""

MAX_SOURCE_CHARACTERS: Final = 8192
"""The longest source, pattern or name of a file: a path, or a URL, of which servers take 8 KiB."""

MAX_NAME_CHARACTERS: Final = 256
"""The longest version, or code of an error."""

MAX_TEXT_CHARACTERS: Final = 1 << 20
"""The longest text of an error or an outcome, which may name every shard of a checkpoint."""

MAX_SHOWN_CHARACTERS: Final = 200
"""The longest text from outside in a log line or an error: two lines of a terminal."""

MAX_LOGGED_CHARACTERS: Final = 16 << 10
"""The longest line of a log; the journal cuts lines in two at 48 KiB."""

MAX_RANGES: Final = 1 << 18
"""The most ranges in one message. A checkpoint of 2 TB has as many blocks of 8 MiB, and neighbours
are one range. So many ranges take 0.4 s to decode; a longer list is refused before its first range
is decoded."""

MAX_BODY_DEPTH: Final = 16
"""The most levels of a status or a configuration; the documented ones have six. A deeply nested
value cannot be written as JSON again."""

MAX_NUMBER: Final = 2**63 - 1
"""The largest count of bytes, blocks or requests: the largest offset that a file can have."""

MAX_HEARTBEAT_S: Final = 3600.0
"""The longest time between two heartbeats; with a longer one no silence would be noticed."""

# --- a peer, and a user -------------------------------------------------------------------------

MAX_REQUESTS: Final = 64
"""The most loads of one peer that are being opened at once. A rank opens one or a few."""

MAX_LOADS: Final = 256
"""The most loads of one peer that are open or being opened. A rank has one for each checkpoint (a
model, its draft model, adapters); the Run:ai-style API has one for each streamer."""

MAX_CLIENTS_PER_USER: Final = 256
"""The most connections of one user's processes. Sixteen ranks of ten models have 160. Each
connection takes three descriptors of the daemon, and no system has a lower hard limit than 4,096.
"""

MAX_PREFETCHES_PER_USER: Final = 64
"""The most prefetches that run for one user. A bound is needed because they outlive the connection
that asked for them."""

# --- checkpoints --------------------------------------------------------------------------------

MAX_SHARDS: Final = 10_000
"""The most shards of one open. The largest checkpoints have some 200 files; a checkpoint with a
file for each of 60 layers, 64 ranks and two kinds would have 7,680."""

MAX_SHARD_BYTES: Final = 4 << 40
"""The longest file: twice the largest checkpoint (Kimi K2 in bfloat16, 2 TB) written as one. A
file's size is only a claim: a sparse file of 4 EiB costs nothing, but the daemon's account takes 22
bytes for each block."""

MAX_SHARD_BLOCKS: Final = 1 << 20
"""The most blocks of one file: twice those of `MAX_SHARD_BYTES` at 8 MiB, so that blocks may be
smaller. Their account takes 23 MB."""

MAX_LOAD_BLOCKS: Final = 2 << 20
"""The most blocks of all files of an open: 16 TiB at 8 MiB. Without it, `MAX_SHARDS` files of
`MAX_SHARD_BLOCKS` would need an account of 230 GB."""

MAX_LISTING_PAGES: Final = 2000
"""The most pages of one listing of a store. Most pages have a thousand keys, and two million keys
take some 600 MB. A store whose listing never ends would fill the memory of the process that reads
it."""

# --- headers ------------------------------------------------------------------------------------

MAX_HEADER_BYTES: Final = 100_000_000
"""The longest header that the `safetensors` package reads, without its eight length bytes. Its text
is in memory once until it is parsed."""

HEADER_PIECE_BYTES: Final = 1 << 20
"""How much of a header is parsed at once. Decoded tensors that are not yet checked take no more
memory than one piece needs, some 20 times its size."""

MAX_CATALOG_ENTRIES: Final = 1_000_000
"""The most tensors of one file. Kimi K2 with its scales has some 280,000 in all its files together;
a million take 250 MB of memory."""

MAX_METADATA_ENTRIES: Final = MAX_CATALOG_ENTRIES
"""The most entries of `__metadata__` in one file. Most files have one; some have one for each
tensor, which tells how it is quantized."""

MAX_DIMENSIONS: Final = 64
"""The most dimensions of one tensor: as many as torch and numpy work with."""
