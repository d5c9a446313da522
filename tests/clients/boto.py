"""boto3: objects, files by parts, ranges, pages of a listing, presigned URLs."""

import io

import boto3
import botocore
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from reading import *

# The default chain is asked for nothing: the pair is given, or requests stay unsigned.
KEYS = {"aws_access_key_id": ACCESS["id"], "aws_secret_access_key": ACCESS["secret"]} if ACCESS else {}
SIGNATURE = {} if ACCESS else {"signature_version": botocore.UNSIGNED}
s3 = boto3.client(
    "s3", endpoint_url=ENDPOINT, region_name=REGION, verify=CA, config=Config(retries={"total_max_attempts": 1}, **SIGNATURE), **KEYS
)

version(boto3.__version__)
for key, size in OBJECTS:
    read("get_object", key, s3.get_object(Bucket=BUCKET, Key=key)["Body"].iter_chunks(1 << 20))
    s3.download_file(BUCKET, key, str(fresh("file")), Config=TransferConfig(preferred_transfer_client="classic"))
    read("download_file", key, WORK / "file")
    into = io.BytesIO()
    # Parts of a size that no block is a multiple of.
    s3.download_fileobj(BUCKET, key, into, Config=TransferConfig(multipart_threshold=1, multipart_chunksize=5 * 1000 * 1000))
    read("download_fileobj", key, into.getvalue())
    if ACCESS:
        where = {"Bucket": BUCKET, "Key": key}
        # Version 4 by name: for a presigned URL of us-east-1 boto3 still takes version 2.
        signer = boto3.client("s3", endpoint_url=ENDPOINT, region_name=REGION, config=Config(signature_version="s3v4"), **KEYS)
        read("presigned", key, fetch(signer.generate_presigned_url("get_object", Params=where, ExpiresIn=600)))
for key, size in LARGE:
    parts = (s3.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={first}-{last}")["Body"].read() for first, last in ranges(size))
    read("ranges", key, parts)
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, PaginationConfig={"PageSize": 3})
listed("paginator", [entry["Key"] for page in pages for entry in page["Contents"]])
