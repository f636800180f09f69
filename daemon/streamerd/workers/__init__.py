"""Fetch workers: processes that read sources into slabs for the daemon.

`in_daemon` runs in the daemon, `in_worker` in the processes that it starts. Neither imports the
other. Between them are the messages (`jobs`, `start_messages`), the frames in which these travel
(`frames`), and `threads`, which both sides use.
"""
