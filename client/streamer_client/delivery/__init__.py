"""Where the blocks of a pass come from: the daemon, the page cache, or the storage itself."""
