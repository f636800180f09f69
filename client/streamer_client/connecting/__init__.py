"""Reaching the daemon: finding or starting it, the two sockets, the thread that talks, requests."""
