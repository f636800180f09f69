"""`s3://`: Amazon S3 and what speaks its protocol (Ceph, MinIO, R2, GCS interoperability).

`storage.py` is the kind of source, `caller.py` what a caller sends along; the daemon's workers see
nothing of the caller but that. botocore is imported with the first s3 source, not before.
"""
