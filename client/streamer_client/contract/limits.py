"""How much of anything a peer may ask for: every bound, with its reason beside it.

Owns the numbers alone. `checks.py` holds messages against them, `header.py` the headers of files,
and the daemon what it has to count itself: peers, queues, loads. Each bound is far above what real
models and real ranks need, and so low that nobody who reaches it harms the others. Pure.
"""

from __future__ import annotations

from typing import Final

# --- messages -----------------------------------------------------------------------------------

MAX_MESSAGE_BYTES: Final = 4 << 20
"""The longest message from a client, held before it is decoded. The longest honest one opens
`MAX_SHARDS` objects by name, some 300 bytes each. Decoding costs up to 20 times a message's size in
memory (a million ranges of four bytes each), and a second for each 10 MB."""

MAX_ANSWER_BYTES: Final = 32 << 20
"""The longest message from the daemon. The longest honest one is the status of a daemon that holds
`MAX_SHARDS` shards with eight leases on each."""

MAX_QUEUED_BYTES: Final = 2 * MAX_ANSWER_BYTES
"""So many bytes may wait for a peer that does not read; with more it is disconnected. The longest
answer must fit while another is still on its way."""

MAX_ENVIRONMENT_BYTES: Final = 512 << 10
"""All names and values of the environment in a request. Certificates of authorities are the
longest, 384 KiB at most, and 220 where they are a whole system's. Linux takes 128 KiB for one
variable, and the longest credentials, a chain of keys in JSON, have some 10."""

MAX_LABEL_CHARACTERS: Final = 100
"""A label as `status` shows it, once for each lease; longer ones are cut."""

MAX_SOURCE_CHARACTERS: Final = 8192
"""A source, a pattern or a file's name: a path, or a URL, of which servers take 8 KiB."""

MAX_NAME_CHARACTERS: Final = 256
"""A version, or an error's code."""

MAX_TEXT_CHARACTERS: Final = 1 << 20
"""An error's text or a request's outcome; it may name every shard of a large checkpoint."""

MAX_SHOWN_CHARACTERS: Final = 200
"""A text from outside within a log line or an error's text: two lines of a terminal."""

MAX_LOGGED_CHARACTERS: Final = 16 << 10
"""One line of a log, far below the length at which the journal cuts it in two (48 KiB)."""

MAX_RANGES: Final = 1 << 18
"""Ranges of one message: a checkpoint of 2 TB has as many blocks of 8 MiB, and neighbours are one
range. So many take 0.4 s to decode; a longer list is refused before its first range is decoded."""

MAX_BODY_DEPTH: Final = 16
"""Levels of a status or a configuration; the documented ones have six. What is nested deeply cannot
be written as JSON again."""

MAX_NUMBER: Final = 2**63 - 1
"""A count of bytes, blocks or requests: the largest offset that a file can have."""

MAX_HEARTBEAT_S: Final = 3600.0
"""The longest time between two heartbeats; with longer ones no silence would be noticed."""

# --- a peer, and a user -------------------------------------------------------------------------

MAX_REQUESTS: Final = 64
"""Loads of one peer that are being opened at once. A rank opens one or a few."""

MAX_LOADS: Final = 256
"""Loads of one peer that are open or being opened. A rank has one for each checkpoint (a model, its
draft model, adapters), the Run:ai-style API one for each streamer."""

MAX_CLIENTS_PER_USER: Final = 256
"""Connections of one user's processes. Sixteen ranks of ten models are 160; each takes three
descriptors of the daemon, and a hard limit of 4,096 is the least that systems set."""

MAX_PREFETCHES_PER_USER: Final = 64
"""Prefetches that run for one user; they outlive the connection that asked, so nothing else ends
them."""

# --- checkpoints --------------------------------------------------------------------------------

MAX_SHARDS: Final = 10_000
"""Shards of one open. The largest checkpoints have some 200 files; one with a file for each of 60
layers, 64 ranks and two kinds would have 7,680."""

MAX_SHARD_BYTES: Final = 4 << 40
"""The longest file: twice the largest checkpoint (Kimi K2 in bfloat16, 2 TB) written as one. A
file's size is only a claim, a sparse one of 4 EiB costs nothing, and the daemon's account takes 22
bytes for each block."""

MAX_SHARD_BLOCKS: Final = 1 << 20
"""Blocks of one file: twice those of `MAX_SHARD_BYTES` at 8 MiB, for smaller blocks; 23 MB of
account."""

MAX_LOAD_BLOCKS: Final = 2 << 20
"""Blocks of all files of an open: 16 TiB at 8 MiB. `MAX_SHARDS` files of `MAX_SHARD_BLOCKS` would
take 230 GB of account."""

MAX_LISTING_PAGES: Final = 2000
"""Pages of one listing of a store, most of a thousand keys: two million keys take some 600 MB. A
store whose listing never ends would fill the memory of whoever reads it."""

# --- headers ------------------------------------------------------------------------------------

MAX_HEADER_BYTES: Final = 100_000_000
"""The longest header that the `safetensors` package reads, its eight length bytes not counted. It
is in memory once, as it was read, until it is parsed."""

HEADER_PIECE_BYTES: Final = 1 << 20
"""So much of a header is parsed at once. What is decoded and not yet checked takes no more memory
than one piece does, some 20 times its size."""

MAX_CATALOG_ENTRIES: Final = 1_000_000
"""Tensors of one file. Kimi K2 with its scales has some 280,000 in all its files together; a
million take 250 MB of memory."""

MAX_METADATA_ENTRIES: Final = MAX_CATALOG_ENTRIES
"""Entries of `__metadata__` in one file: mostly one; one for each tensor where the kinds of
quantization stand there."""

MAX_DIMENSIONS: Final = 64
"""Dimensions of one tensor: as many as torch and numpy work with."""
