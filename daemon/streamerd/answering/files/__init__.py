"""Files that clients hand over: received, examined, made into shards, and compared with memory."""
