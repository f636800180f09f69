"""`gs://`: Google Cloud Storage by its JSON API.

`storage.py` is the kind of source, `caller.py` what a caller sends along; the daemon's workers see
nothing of the caller but that. google-auth is imported where the caller runs, when first needed.
"""
