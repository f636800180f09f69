"""`az://`: Azure Blob Storage, and Azurite.

`storage.py` is the kind of source, `caller.py` what a caller sends along; the daemon's workers see
nothing of the caller but that. Azure's libraries are imported where the caller runs, when needed.
"""
