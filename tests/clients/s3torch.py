"""s3torchconnector: datasets by both of its readers, a checkpoint's reader, a prefix."""

import os

from reading import *

os.environ.update({name: value for name, value in aws_environment().items() if name != "AWS_ENDPOINT_URL"})

from s3torchconnector import S3Checkpoint, S3ClientConfig, S3MapDataset, S3ReaderConstructor, __version__

CONFIG = S3ClientConfig(force_path_style=True, unsigned=not ACCESS)
WHERE = {"region": REGION, "endpoint": ENDPOINT, "s3client_config": CONFIG}

version(__version__)
for kind in ("sequential", "range_based"):
    reader = getattr(S3ReaderConstructor, kind)()
    objects = S3MapDataset.from_objects([f"s3://{BUCKET}/{key}" for key, _ in OBJECTS], reader_constructor=reader, **WHERE)
    for index, (key, _) in enumerate(OBJECTS):
        read(f"S3MapDataset ({kind})", key, objects[index].read())
checkpoint = S3Checkpoint(**WHERE)
for key, size in LARGE:
    with checkpoint.reader(f"s3://{BUCKET}/{key}") as reader:
        reader.seek(size - 7)
        tail = reader.read()
        reader.seek(0)
        body = reader.read()
    assert body.endswith(tail) and len(tail) == 7
    read("S3Checkpoint", key, body)
listed("from_prefix", [item.key for item in S3MapDataset.from_prefix(f"s3://{BUCKET}/", **WHERE)])
