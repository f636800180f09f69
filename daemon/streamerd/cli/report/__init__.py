"""`streamerctl report`: the last loads as text, as a page of their own, or as a trace for Perfetto.

| module | owns |
|---|---|
| `course` | what follows from a report: runs of phases, throughput, loads that belong together |
| `text` | the table on a terminal |
| `trace` | the file for Perfetto |
| `page`, `page.html` | the page for a browser |
| `run` | the command |

All modules except `run` are pure.
"""
