"""Puts objects with a store's own client: put.py KIND ENDPOINT BUCKET ID SECRET CONTENT_TYPE META_NAME META_VALUE

Reads a JSON list of {"key", "path"} on standard input. Makes the bucket first. KIND is s3, azure or gcs.
"""

import json
import sys
import urllib.parse
import urllib.request


def put_s3(endpoint, bucket, credentials, objects, content_type, metadata):
    import boto3
    from botocore.config import Config

    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=credentials[0],
        aws_secret_access_key=credentials[1],
        config=Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"}),
    )
    s3.create_bucket(Bucket=bucket)
    for item in objects:
        with open(item["path"], "rb") as body:
            s3.put_object(Bucket=bucket, Key=item["key"], Body=body, ContentType=content_type, Metadata=metadata)


def put_azure(endpoint, bucket, credentials, objects, content_type, metadata):
    from azure.storage.blob import BlobServiceClient, ContentSettings

    account = {"account_name": credentials[0], "account_key": credentials[1]}
    service = BlobServiceClient(endpoint, credential=account, api_version="2021-12-02")
    container = service.create_container(bucket)
    for item in objects:
        with open(item["path"], "rb") as body:
            container.upload_blob(
                item["key"],
                body.read(),
                metadata=metadata,
                content_settings=ContentSettings(content_type=content_type),
            )


def put_gcs(endpoint, bucket, _credentials, objects, content_type, metadata):
    def post(path, kind, body):
        request = urllib.request.Request(endpoint + path, data=body, headers={"Content-Type": kind}, method="POST")
        urllib.request.urlopen(request).read()

    post("/storage/v1/b?project=tests", "application/json", json.dumps({"name": bucket}).encode())
    for item in objects:
        head = json.dumps({"name": item["key"], "contentType": content_type, "metadata": metadata})
        with open(item["path"], "rb") as body:
            parts = (
                b"--edge\r\nContent-Type: application/json\r\n\r\n" + head.encode()
                + b"\r\n--edge\r\nContent-Type: " + content_type.encode() + b"\r\n\r\n"
                + body.read() + b"\r\n--edge--\r\n"
            )
        post(f"/upload/storage/v1/b/{urllib.parse.quote(bucket)}/o?uploadType=multipart", "multipart/related; boundary=edge", parts)


def main():
    kind, endpoint, bucket, key_id, secret, content_type, name, value = sys.argv[1:]
    put = {"s3": put_s3, "azure": put_azure, "gcs": put_gcs}[kind]
    put(endpoint, bucket, (key_id, secret), json.load(sys.stdin), content_type, {name: value})


main()
