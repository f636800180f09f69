"""`az://`: Azure Blob Storage, and Azurite.

`kind.py` is what the registry knows, `storage.py` lists and opens, `environment.py` resolves in the
client's process what the daemon's workers need; they see nothing else of the client.
Azure's libraries are imported in the client when they are first needed.
"""
