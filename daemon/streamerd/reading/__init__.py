"""Has sources read into slabs: fetches in flight, bandwidth, progress and proofs."""
