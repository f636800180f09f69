"""`gs://`: Google Cloud Storage by its JSON API.

`kind.py` describes this kind to the registry, and `storage.py` lists and opens objects.
`environment.py` runs in the client's process and resolves the variables that the daemon's workers
need; the workers see no other variable of the client. google-auth is imported in the client when a
token is first needed.
"""
