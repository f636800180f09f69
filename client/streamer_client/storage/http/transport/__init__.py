"""One connection to a server: its socket, TLS and proxy tunnel, and the time that it may take."""
