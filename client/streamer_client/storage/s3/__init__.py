"""`s3://`: Amazon S3 and what speaks its protocol (Ceph, MinIO, R2, GCS interoperability).

`kind.py` is what the registry knows, `storage.py` lists and opens, `environment.py` resolves in the
client's process what the daemon's workers need; they see nothing else of the client.
botocore is imported with the first s3 source, not before.
"""
