"""`s3://`: Amazon S3 and stores with its protocol (Ceph, MinIO, R2, GCS interoperability).

`kind.py` describes this kind to the registry, and `storage.py` lists and opens objects.
`environment.py` runs in the client's process and resolves the variables that the daemon's workers
need; the workers see no other variable of the client. botocore is imported with the first s3
source, not before.
"""
