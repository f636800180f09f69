"""Carrying out what the core decides, and who owns what outside the core.

| module | owns |
|---|---|
| `turns` | the core, the events that wait for it, and when its next turn is |
| `shards` | what stands behind each shard (`Backing`), and the shards that failed lately |
| `slabs` | the slabs: making, handing to workers, punching, removing |
| `answers` | the answers that clients wait for, and what they are told of their loads |
| `closing` | clients' descriptors that nobody needs, until a thread has closed them |
| `carrying` | which of these, or of `reading/`, carries out which command |
| `views` | what other rooms get to see: the model for reading, and a way to give events in |

All of it runs in the daemon's loop. `parts.py` puts it together.
"""
