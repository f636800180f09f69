"""The ways a pass gets its blocks: from the daemon, the page cache, or the storage itself."""
