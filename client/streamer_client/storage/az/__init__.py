"""`az://`: Azure Blob Storage and its emulator Azurite.

`kind.py` describes this kind to the registry, and `storage.py` lists and opens blobs.
`environment.py` runs in the client's process and resolves the variables that the daemon's workers
need; the workers see no other variable of the client. Azure's libraries are imported in the client
when they are first needed.
"""
