"""What the daemon knows of its own work, for those who look later.

| module | owns |
|---|---|
| `record` | one load: its figures, and how its time went |
| `watch` | the records of running and ended loads, kept up from the core's turns |
| `story` | the log lines about loads |
| `document` | the names and types of that answer's document |
| `report` | the answer to `GetReport` |
| `metrics` | what Prometheus is told |
| `listener` | the socket that Prometheus asks |

`record` and `watch` are pure. Nobody here decides anything, and nothing here grows without bound.
All of it runs in the daemon's loop.
"""
