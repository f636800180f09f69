"""Fetch workers: processes that read sources into slabs for the daemon.

`in_daemon` runs in the daemon, `in_worker` in the processes that the daemon starts. Neither imports
the other. Both use the messages (`jobs`, `start_messages`), the frames in which messages travel
(`frames`), and the thread pools (`threads`).
"""
