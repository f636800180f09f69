"""Reading sources into slabs: fetches in flight, bandwidth, progress, credentials."""
