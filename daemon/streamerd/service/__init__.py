"""Carries out the core's decisions, and owns the parts of shards and loads outside the core.

| module | owns |
|---|---|
| `turns` | the core, the events that wait for it, and the time of its next turn |
| `shards` | the backing of each shard, and the shards that failed lately |
| `slabs` | the slabs: making, handing to workers, punching, removing |
| `answers` | the answers that clients wait for, and the messages about their loads |
| `closing` | clients' descriptors that are not needed any more, until a thread has closed them |
| `carrying` | which part of this room or of `reading/` carries out which command |
| `views` | what other rooms see of the core: the model for reading, and a way to give events in |

All of these run in the daemon's loop. `parts.py` puts them together.
"""
