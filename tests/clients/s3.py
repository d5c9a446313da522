"""The S3 dialect as boto3 and the AWS command line see it: s3.py GATEWAY ORIGIN

ORIGIN is moto's server; the gateway's dataset `models` is its bucket `weights`, which this script makes and fills. The dataset
`void` is the empty bucket `void`. Each function named `claim_…` is one claim; all run, failures are shown, exit 1 if any.
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback
import urllib.error
import urllib.parse
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

GATEWAY, ORIGIN = sys.argv[1:]
MIB = 1 << 20
ODD = ["a//b.bin", "dir/", "//", "a b+c.bin", "100%25.bin", "x&y<z>.bin", "模型/ä.bin", "q?r#s.bin", "~tilde!*'().bin"]


def client(endpoint):
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config, **keys)


gateway, origin = client(GATEWAY), client(ORIGIN)


def pattern(name, size):
    block = hashlib.sha256(name.encode()).digest() * 2048
    return (block * (size // len(block) + 1))[:size]


def fill():
    """Everything the claims read; returns the bytes by key."""
    origin.create_bucket(Bucket="weights")
    origin.create_bucket(Bucket="void")
    origin.put_bucket_versioning(Bucket="weights", VersioningConfiguration={"Status": "Enabled"})
    objects = {f"tree/{n:02}/file-{m}.bin": pattern(f"{n}{m}", 1000 * n + m) for n in range(4) for m in range(3)}
    objects |= {key: pattern(key, 500) for key in ODD}
    objects |= {"empty.bin": b"", "big.bin": pattern("big", 20 * MIB + 77), "versioned.bin": b"second version"}
    origin.put_object(Bucket="weights", Key="versioned.bin", Body=b"first")
    for key, body in objects.items():
        fields = {"ContentType": "application/x-weights", "CacheControl": "max-age=60", "Metadata": {"license": "mit"}}
        origin.put_object(Bucket="weights", Key=key, Body=body, **fields)
    parts = [pattern("one", 5 * MIB), pattern("two", 5 * MIB + 3), pattern("three", 12)]
    upload = origin.create_multipart_upload(Bucket="weights", Key="parts.bin")["UploadId"]
    where = {"Bucket": "weights", "Key": "parts.bin", "UploadId": upload}
    done = []
    for number, part in enumerate(parts, 1):
        etag = origin.upload_part(PartNumber=number, Body=part, **where)["ETag"]
        done.append({"PartNumber": number, "ETag": etag})
    origin.complete_multipart_upload(MultipartUpload={"Parts": done}, **where)
    objects["parts.bin"] = b"".join(parts)
    return objects, parts


OBJECTS, PARTS = fill()
KEYS = sorted(OBJECTS, key=lambda key: key.encode())


def read(key, **arguments):
    answer = gateway.get_object(Bucket="models", Key=key, **arguments)
    return answer, answer["Body"].read()


def refused(status, code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        found = (error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"])
        assert found == (status, code), f"{found}, not {(status, code)}"
        return error.response
    raise AssertionError(f"answered, where {status} {code} belongs")


def raw(method, path):
    """Status, fields and body of a request that no SDK would send."""
    request = urllib.request.Request(GATEWAY + path, method=method)
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.headers, answer.read().decode()


def claim_buckets_are_the_datasets():
    assert [bucket["Name"] for bucket in gateway.list_buckets()["Buckets"]] == ["models", "void"]


def claim_head_bucket_and_location():
    gateway.head_bucket(Bucket="models")
    refused(404, "404", gateway.head_bucket, Bucket="nothing-here")
    assert gateway.get_bucket_location(Bucket="models")["LocationConstraint"] in (None, "us-east-1")


def claim_every_object_reads_with_its_fields():
    for key, body in OBJECTS.items():
        answer, found = read(key)
        assert found == body, key
        expected = origin.head_object(Bucket="weights", Key=key)
        for field in ("ETag", "ContentLength", "LastModified", "ContentType", "Metadata"):
            assert answer[field] == expected[field], (key, field, answer[field], expected[field])
        head = gateway.head_object(Bucket="models", Key=key)
        for field in ("ETag", "ContentLength", "LastModified", "ContentType", "Metadata"):
            assert head[field] == expected[field], (key, field, head[field], expected[field])


def claim_ranges():
    body = OBJECTS["big.bin"]
    for text, part in [("bytes=5-9", body[5:10]), ("bytes=-7", body[-7:]), (f"bytes={MIB - 1}-{MIB}", body[MIB - 1 : MIB + 1])]:
        answer, found = read("big.bin", Range=text)
        assert found == part, text
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    refused(416, "InvalidRange", gateway.get_object, Bucket="models", Key="big.bin", Range="bytes=99999999-")


def claim_conditions():
    etag = gateway.head_object(Bucket="models", Key="big.bin")["ETag"]
    read("big.bin", IfMatch=etag, Range="bytes=0-1")
    refused(412, "PreconditionFailed", gateway.get_object, Bucket="models", Key="big.bin", IfMatch='"none"')
    refused(304, "304", gateway.get_object, Bucket="models", Key="big.bin", IfNoneMatch=etag)


def claim_missing_keys_and_buckets():
    refused(404, "NoSuchKey", gateway.get_object, Bucket="models", Key="none")
    refused(404, "404", gateway.head_object, Bucket="models", Key="none")
    answer = refused(404, "NoSuchBucket", gateway.get_object, Bucket="nothing-here", Key="none")
    assert answer["ResponseMetadata"]["RequestId"]
    refused(404, "NoSuchBucket", gateway.list_objects_v2, Bucket="nothing-here")


def claim_versions():
    listed = origin.list_object_versions(Bucket="weights", Prefix="versioned.bin")["Versions"]
    first, second = (next(v["VersionId"] for v in listed if v["IsLatest"] is latest) for latest in (False, True))
    assert read("versioned.bin", VersionId=first)[1] == b"first"
    assert read("versioned.bin", VersionId=second)[1] == b"second version"
    assert read("versioned.bin", VersionId=first, Range="bytes=1-2")[1] == b"ir"
    assert gateway.head_object(Bucket="models", Key="versioned.bin", VersionId=first)["ContentLength"] == 5
    assert read("versioned.bin")[1] == b"second version"
    assert read("versioned.bin", VersionId=first)[0]["VersionId"] == first


def claim_a_version_that_is_not_there():
    try:
        read("versioned.bin", VersionId="00000000-0000-0000-0000-000000000000")
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        assert status in (400, 404), status
        return
    raise AssertionError("a version out of nothing")


def claim_response_fields_can_be_overridden():
    answer, _ = read("big.bin", Range="bytes=0-0", ResponseContentType="text/plain", ResponseCacheControl="no-store")
    assert answer["ContentType"] == "text/plain"
    assert answer["CacheControl"] == "no-store"
    answer, _ = read("big.bin", Range="bytes=0-0", ResponseContentDisposition='attachment; filename="x"', ResponseContentLanguage="de")
    assert answer["ContentDisposition"] == 'attachment; filename="x"'
    assert answer["ContentLanguage"] == "de"


def claim_part_one_of_a_plain_object_is_all_of_it():
    for key in ("tree/01/file-1.bin", "empty.bin"):
        answer, found = read(key, PartNumber=1)
        assert found == OBJECTS[key]
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206, key
    refused(416, "InvalidPartNumber", gateway.get_object, Bucket="models", Key="tree/01/file-1.bin", PartNumber=2)


def claim_parts_that_the_origin_places_badly_are_never_wrong_bytes():
    # moto answers HEAD with partNumber by the part's own ETag and without Content-Range.
    for number, part in enumerate(PARTS, 1):
        try:
            assert read("parts.bin", PartNumber=number)[1] == part, number
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] in (501, 502, 503), error


def listed_v2(**arguments):
    """Keys and prefixes over all pages."""
    keys, prefixes = [], []
    for page in gateway.get_paginator("list_objects_v2").paginate(Bucket="models", **arguments):
        keys += [entry["Key"] for entry in page.get("Contents", [])]
        prefixes += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
        assert page["KeyCount"] == len(page.get("Contents", [])) + len(page.get("CommonPrefixes", []))
    return keys, prefixes


def claim_listing_v2_in_pages_of_any_size():
    for size in (1, 3, 1000):
        keys, prefixes = listed_v2(PaginationConfig={"PageSize": size})
        assert (keys, prefixes) == (KEYS, []), (size, keys)


def claim_listing_entries_say_what_head_says():
    for entry in gateway.list_objects_v2(Bucket="models")["Contents"]:
        head = origin.head_object(Bucket="weights", Key=entry["Key"])
        assert entry["Size"] == head["ContentLength"] and entry["ETag"] == head["ETag"], entry
        assert abs((entry["LastModified"] - head["LastModified"]).total_seconds()) < 1.5, entry


def claim_delimiters_roll_up():
    top = sorted({key.split("/")[0] + "/" for key in KEYS if "/" in key}, key=lambda key: key.encode())
    plain = [key for key in KEYS if "/" not in key]
    for size in (1, 2, 1000):
        assert listed_v2(Delimiter="/", PaginationConfig={"PageSize": size}) == (plain, top), size
    assert listed_v2(Delimiter="/", Prefix="tree/") == ([], [f"tree/{n:02}/" for n in range(4)])
    assert listed_v2(Delimiter="file", Prefix="tree/01")[1] == ["tree/01/file"]


def claim_prefix_start_after_and_max_keys():
    assert listed_v2(Prefix="tree/02/")[0] == [key for key in KEYS if key.startswith("tree/02/")]
    assert listed_v2(Prefix="nothing")[0] == []
    assert listed_v2(StartAfter="tree/01/file-1.bin")[0] == [key for key in KEYS if key > "tree/01/file-1.bin"]
    page = gateway.list_objects_v2(Bucket="models", MaxKeys=2)
    assert [entry["Key"] for entry in page["Contents"]] == KEYS[:2]
    assert page["IsTruncated"] and page["MaxKeys"] == 2 and page["NextContinuationToken"]
    page = gateway.list_objects_v2(Bucket="models", MaxKeys=0)
    assert page["KeyCount"] == 0 and not page["IsTruncated"]


def claim_listing_v1():
    for size in (2, 1000):
        keys = []
        for page in gateway.get_paginator("list_objects").paginate(Bucket="models", PaginationConfig={"PageSize": size}):
            keys += [entry["Key"] for entry in page.get("Contents", [])]
        assert keys == KEYS, (size, keys)
    page = gateway.list_objects(Bucket="models", Marker="tree/01/file-1.bin", Prefix="tree/")
    assert [entry["Key"] for entry in page["Contents"]] == [key for key in KEYS if "tree/01/file-1.bin" < key < "tree/~"]
    page = gateway.list_objects(Bucket="models", Delimiter="/", Prefix="tree/")
    assert [entry["Prefix"] for entry in page["CommonPrefixes"]] == [f"tree/{n:02}/" for n in range(4)], page


def claim_an_empty_bucket_lists_empty():
    page = gateway.list_objects_v2(Bucket="void")
    assert page["KeyCount"] == 0 and not page["IsTruncated"] and "Contents" not in page


def claim_keys_are_escaped_or_encoded():
    _, fields, text = raw("GET", "/models/?list-type=2&prefix=x%26y")
    assert fields["Content-Type"] == "application/xml"
    assert "<Key>x&amp;y&lt;z&gt;.bin</Key>" in text, text
    _, _, text = raw("GET", "/models?list-type=2&prefix=x%26y&encoding-type=url")
    assert "<Key>x%26y%3Cz%3E.bin</Key>" in text and "<EncodingType>url</EncodingType>" in text, text
    assert "<Prefix>x%26y</Prefix>" in text, text


def claim_bad_listing_arguments_are_400():
    for query in ("max-keys=x", "max-keys=-1", "encoding-type=base64"):
        status, _, text = raw("GET", f"/models?list-type=2&{query}")
        assert status == 400 and "<Code>InvalidArgument</Code>" in text, (query, status, text)


def claim_writes_are_405():
    where = {"Bucket": "models", "Key": "new.bin"}
    refused(405, "MethodNotAllowed", gateway.put_object, Body=b"x", **where)
    refused(405, "MethodNotAllowed", gateway.delete_object, **where)
    refused(405, "MethodNotAllowed", gateway.create_bucket, Bucket="new-bucket")
    refused(405, "MethodNotAllowed", gateway.delete_objects, Bucket="models", Delete={"Objects": [{"Key": "big.bin"}]})
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        status, fields, text = raw(method, "/models/new.bin")
        assert status == 405 and "<Code>MethodNotAllowed</Code>" in text, (method, status, text)
        assert {name.strip() for name in fields["Allow"].split(",")} == {"GET", "HEAD"}, fields["Allow"]


def claim_other_sub_resources_are_501():
    refused(501, "NotImplemented", gateway.get_object_acl, Bucket="models", Key="big.bin")
    refused(501, "NotImplemented", gateway.get_object_tagging, Bucket="models", Key="big.bin")
    refused(501, "NotImplemented", gateway.get_bucket_acl, Bucket="models")
    refused(501, "NotImplemented", gateway.list_multipart_uploads, Bucket="models")


def claim_errors_are_exact_xml():
    status, fields, text = raw("GET", "/models/no%20such%26key")
    assert status == 404 and fields["Content-Type"] == "application/xml"
    for part in ('<?xml version="1.0" encoding="UTF-8"?>', "<Error>", "<Code>NoSuchKey</Code>", "<Key>no such&amp;key</Key>"):
        assert part in text, (part, text)
    assert fields["x-amz-request-id"] and f"<RequestId>{fields['x-amz-request-id']}</RequestId>" in text, text


def claim_checksums_are_never_sent_with_a_206():
    answer, _ = read("big.bin", Range="bytes=0-9", ChecksumMode="ENABLED")
    assert not [name for name in answer["ResponseMetadata"]["HTTPHeaders"] if name.startswith("x-amz-checksum")]


def claim_download_file_in_parts():
    with tempfile.TemporaryDirectory() as folder:
        for key in ("big.bin", "parts.bin", "empty.bin"):
            path = pathlib.Path(folder, "file")
            gateway.download_file("models", key, str(path))
            assert path.read_bytes() == OBJECTS[key], key


def aws(*arguments):
    program = pathlib.Path(sys.executable).with_name("aws")
    keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [program, "--endpoint-url", GATEWAY, "s3", *arguments]
    done = subprocess.run(command, env={**os.environ, **keys}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def claim_aws_copies_a_whole_tree():
    with tempfile.TemporaryDirectory() as folder:
        aws("cp", "--recursive", "--quiet", "s3://models/tree/", folder)
        found = {str(path.relative_to(folder)): path.read_bytes() for path in pathlib.Path(folder).rglob("*") if path.is_file()}
        assert found == {key[5:]: body for key, body in OBJECTS.items() if key.startswith("tree/")}


def claim_aws_lists_and_streams():
    listed = aws("ls", "--recursive", "s3://models/tree/")
    assert all(key in listed for key in KEYS if key.startswith("tree/")), listed
    assert "PRE tree/" in aws("ls", "s3://models/")
    assert "models" in aws("ls")
    with tempfile.TemporaryDirectory() as folder:
        aws("cp", "--quiet", "s3://models/big.bin", f"{folder}/big.bin")
        assert pathlib.Path(folder, "big.bin").read_bytes() == OBJECTS["big.bin"]


def claim_presigned_addresses_read():
    address = gateway.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": "a b+c.bin"})
    assert urllib.request.urlopen(address).read() == OBJECTS["a b+c.bin"]


def main():
    failed = 0
    for name, claim in list(globals().items()):
        if not name.startswith("claim_"):
            continue
        try:
            claim()
            print(f"ok {name[6:]}")
        except Exception:
            failed += 1
            print(f"FAILED {name[6:]}\n{traceback.format_exc(limit=4)}")
    sys.exit(1 if failed else 0)


main()
