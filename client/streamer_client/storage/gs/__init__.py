"""`gs://`: Google Cloud Storage by its JSON API.

`kind.py` is what the registry knows, `storage.py` lists and opens, `environment.py` resolves in the
client's process what the daemon's workers need; they see nothing else of the client.
google-auth is imported in the client when a token is first needed.
"""
