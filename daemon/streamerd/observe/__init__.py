"""Remembers the daemon's own work, for the report, the log and Prometheus.

| module | owns |
|---|---|
| `record` | one load: its figures, and how its time went |
| `watch` | the records of running and ended loads, kept up from the core's turns |
| `story` | the log lines about loads |
| `document` | the names and types of the report's document |
| `report` | the answer to `GetReport` |
| `metrics` | the metrics that Prometheus is told |
| `listener` | the socket that Prometheus asks |

`record` and `watch` are pure. No module here decides anything, and none grows without bound. All of
them run in the daemon's loop.
"""
