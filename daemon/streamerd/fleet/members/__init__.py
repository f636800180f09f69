"""Who is in the fleet: an existing engine says it, etcd or DNS.

A member is known by the address at which it is asked for blocks. `source_of` chooses the engine;
`book.py` is the thread that keeps asking it. Runs in the fleet's process, so that a library that
hangs or dies takes neither the daemon nor a load with it.
"""
