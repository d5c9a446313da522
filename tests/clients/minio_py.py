"""minio-py: objects, files, ranges, a listing, presigned URLs."""

import minio
from minio import Minio

from reading import *

scheme, _, host = ENDPOINT.partition("://")
KEYS = {"access_key": ACCESS["id"], "secret_key": ACCESS["secret"]} if ACCESS else {}
client = Minio(host, secure=scheme == "https", region=REGION, **KEYS)

version(minio.__version__)
assert client.bucket_exists(bucket_name=BUCKET)
for key, size in OBJECTS:
    with client.get_object(bucket_name=BUCKET, object_name=key) as answer:
        read("get_object", key, answer.read())
    client.fget_object(bucket_name=BUCKET, object_name=key, file_path=str(fresh("file")))
    read("fget_object", key, WORK / "file")
    if ACCESS:
        read("presigned", key, fetch(client.presigned_get_object(bucket_name=BUCKET, object_name=key)))
for key, size in LARGE:
    pieces = []
    for first, last in ranges(size):
        with client.get_object(bucket_name=BUCKET, object_name=key, offset=first, length=last - first + 1) as answer:
            pieces.append(answer.read())
    read("ranges", key, pieces)
listed("list_objects", [entry.object_name for entry in client.list_objects(bucket_name=BUCKET, recursive=True)])
