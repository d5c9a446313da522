"""The door as boto3 and the AWS command line knock at it: door.py GATEWAY ORIGIN

ORIGIN is moto's server, whose buckets `weights` and `private` this script makes and fills; they are the gateway's datasets
`models` and `private`. The gateway knows the keys LOADER (which may read `models`) and ADMIN (all, and an administrator), has
`domain = "s3.forebay.test"` and `hosts = ["gw.forebay.test:8080"]`. Each function named `claim_…` is one claim; all run.
"""

import datetime
import hashlib
import hmac
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import traceback
import urllib.error
import urllib.parse
import urllib.request

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

GATEWAY, ORIGIN = sys.argv[1:]
HOST = GATEWAY.removeprefix("http://")
PORT = HOST.rsplit(":", 1)[1]
SECRETS = {"LOADER": "loader-secret/+= hidden", "ADMIN": "admin-secret-hidden"}
KEYS = [
    "plain.bin", "a//b.bin", "dir/", "//", "a b+c.bin", "100%25.bin", "x&y<z>.bin", "模型/ä.bin", "q?r#s.bin", "~tilde!*'().bin",
    "=;,:@$.bin", '"quoted" \'both\'.bin', "-/x.bin", "a%20b", "[1]{2}|^`.bin",
]  # fmt: skip

# Names below .forebay.test are this machine's, whatever a resolver says.
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: resolve(
    "127.0.0.1" if str(host).endswith(".forebay.test") else host, *rest, **more
)


def client(key="LOADER", secret=None, url=GATEWAY, style="path", region="us-east-1", token=None, **config):
    # Left to itself, boto3 presigns for us-east-1 by the second version.
    config.setdefault("signature_version", "s3v4")
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": style, **config.pop("s3", {})}, **config)
    keys = {"aws_access_key_id": key, "aws_secret_access_key": secret or SECRETS.get(key, "any"), "aws_session_token": token}
    return boto3.client("s3", endpoint_url=url, region_name=region, config=config, **keys)


origin = client("any", url=ORIGIN)
loader, admin = client(), client("ADMIN")


def body_of(key):
    return hashlib.sha256(key.encode()).digest() * 40


def fill():
    for bucket in ("weights", "private"):
        origin.create_bucket(Bucket=bucket)
        for key in KEYS:
            origin.put_object(Bucket=bucket, Key=key, Body=body_of(key))


fill()


def read(client, key, bucket="models", **arguments):
    return client.get_object(Bucket=bucket, Key=key, **arguments)["Body"].read()


def refused(status, code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        found = (error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"])
        assert found == (status, code), f"{found}, not {(status, code)}"
        return error.response
    raise AssertionError(f"answered, where {status} {code} belongs")


def fetch(url, headers=None, method="GET"):
    """Status, fields and body."""
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.headers, answer.read()


def signature(key, when, text_hash):
    scope = f"{when:%Y%m%d}/us-east-1/s3/aws4_request"
    derived = ("AWS4" + SECRETS[key]).encode()
    for part in scope.split("/"):
        derived = hmac.digest(derived, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{when:%Y%m%dT%H%M%SZ}\n{scope}\n{text_hash}"
    return hmac.digest(derived, text.encode(), "sha256").hex()


def presigned_by_hand(path, age=0, expires=60, key="LOADER", host=HOST):
    """The URL as signed `age` seconds ago."""
    when = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=age)
    credential = f"{key}/{when:%Y%m%d}/us-east-1/s3/aws4_request"
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": credential, "X-Amz-Date": f"{when:%Y%m%dT%H%M%SZ}",
        "X-Amz-Expires": str(expires), "X-Amz-SignedHeaders": "host",
    }  # fmt: skip
    query = urllib.parse.urlencode(query, quote_via=urllib.parse.quote, safe="")
    canonical = f"GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    signed = signature(key, when, hashlib.sha256(canonical.encode()).hexdigest())
    return f"{GATEWAY}{path}?{query}&X-Amz-Signature={signed}"


def signed_by_hand(path, age=0, key="LOADER", host=HOST):
    """Fields of a GET as signed `age` seconds ago."""
    when = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=age)
    date = f"{when:%Y%m%dT%H%M%SZ}"
    canonical = f"GET\n{path}\n\nhost:{host}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{date}\n\n"
    canonical += "host;x-amz-content-sha256;x-amz-date\nUNSIGNED-PAYLOAD"
    signed = signature(key, when, hashlib.sha256(canonical.encode()).hexdigest())
    credential = f"{key}/{when:%Y%m%d}/us-east-1/s3/aws4_request"
    names = "host;x-amz-content-sha256;x-amz-date"
    authorization = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signed}"
    return {"x-amz-date": date, "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "Authorization": authorization}


def code(body):
    return body.decode().partition("<Code>")[2].partition("</Code>")[0]


def claim_signed_reads_of_awkward_keys_cold_and_hot():
    for key in KEYS:
        for _ in range(2):
            assert read(loader, key) == body_of(key), key
        assert loader.head_object(Bucket="models", Key=key)["ContentLength"] == 1280, key
        assert read(loader, key, Range="bytes=3-9") == body_of(key)[3:10], key


def claim_presigned_reads_of_awkward_keys():
    for key in KEYS:
        url = loader.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": key})
        status, _, found = fetch(url)
        assert (status, found) == (200, body_of(key)), (key, status, found[:300])
        status, _, found = fetch(url, {"Range": "bytes=0-4", "x-forwarded-for": "10.0.0.1"})
        assert (status, found) == (206, body_of(key)[:5]), key
        url = loader.generate_presigned_url("head_object", Params={"Bucket": "models", "Key": key})
        assert fetch(url, method="HEAD")[0] == 200, key


def claim_listings_are_signed_with_awkward_prefixes_and_tokens():
    for prefix in ["", "a", "a b+", "模", "x&", "q?r#", "100%", "~", '"', "-/", "none="]:
        pages = loader.get_paginator("list_objects_v2").paginate(
            Bucket="models", Prefix=prefix, PaginationConfig={"PageSize": 2}
        )
        found = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        assert found == sorted((key for key in KEYS if key.startswith(prefix)), key=str.encode), (prefix, found)
    pages = loader.list_objects_v2(Bucket="models", Delimiter="/", StartAfter="a+ä/%")
    assert pages["KeyCount"] > 0
    assert loader.list_objects(Bucket="models", Delimiter="b+", Marker="a ")["Name"] == "models"


def claim_any_region_and_either_way_to_sign_the_body():
    for region in ("eu-central-1", "cn-hangzhou", "nowhere"):
        assert read(client(region=region), "plain.bin") == body_of("plain.bin")
    for enabled in (True, False):
        assert read(client(s3={"payload_signing_enabled": enabled}), "plain.bin") == body_of("plain.bin")


def claim_session_tokens_are_signed_and_ignored():
    temporary = client(token="a/session+token==")
    assert read(temporary, "a b+c.bin") == body_of("a b+c.bin")
    url = temporary.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": "a b+c.bin"})
    assert fetch(url)[2] == body_of("a b+c.bin")
    assert fetch(url.replace("session%2Btoken", "other%2Btoken"))[0] == 403


def claim_wrong_credentials_have_s3s_errors():
    where = {"Bucket": "models", "Key": "plain.bin"}
    refused(403, "SignatureDoesNotMatch", client(secret="wrong").get_object, **where)
    refused(403, "InvalidAccessKeyId", client("NOBODY").get_object, **where)
    refused(403, "AccessDenied", client(signature_version=UNSIGNED).get_object, **where)
    refused(403, "403", client(secret="wrong").head_object, **where)
    refused(403, "SignatureDoesNotMatch", client(secret="wrong").list_objects_v2, Bucket="models")
    refused(403, "SignatureDoesNotMatch", client(secret="wrong").list_buckets)
    refused(403, "SignatureDoesNotMatch", client(secret="wrong").put_object, Body=b"x", **where)
    refused(405, "MethodNotAllowed", loader.put_object, Body=b"x", **where)
    refused(405, "MethodNotAllowed", loader.delete_objects, Bucket="models", Delete={"Objects": [{"Key": "a"}]})


def claim_signatures_of_the_second_version_are_refused():
    old = client(signature_version="s3")
    refused(400, "InvalidRequest", old.get_object, Bucket="models", Key="plain.bin")
    url = old.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": "plain.bin"})
    status, _, body = fetch(url)
    assert (status, code(body)) == (400, "InvalidRequest"), body


def claim_presigned_urls_live_as_long_as_they_say():
    path = "/models/plain.bin"
    week = 7 * 24 * 3600
    for age, expires, status, name in [
        (0, 60, 200, ""), (-890, 60, 200, ""), (week - 60, week, 200, ""),
        (120, 60, 403, "AccessDenied"), (week, week - 60, 403, "AccessDenied"), (-1000, 60, 403, "AccessDenied"),
        (0, week + 1, 400, "AuthorizationQueryParametersError"),
    ]:  # fmt: skip
        found, _, body = fetch(presigned_by_hand(path, age, expires))
        assert (found, code(body) if found != 200 else "") == (status, name), (age, expires, found, body)
    _, _, body = fetch(presigned_by_hand(path, 120, 60))
    assert b"Request has expired" in body, body


def claim_clocks_may_differ_by_fifteen_minutes():
    path = "/models/plain.bin"
    for age, status in [(0, 200), (880, 200), (-880, 200), (920, 403), (-920, 403)]:
        found, _, body = fetch(GATEWAY + path, signed_by_hand(path, age))
        assert found == status, (age, found, body)
        if status == 403:
            assert code(body) == "RequestTimeTooSkewed", body


def claim_every_amz_field_has_to_be_signed():
    path = "/models/plain.bin"
    found, _, body = fetch(GATEWAY + path, signed_by_hand(path) | {"x-amz-security-token": "slipped in"})
    assert (found, code(body)) == (403, "AccessDenied") and b"x-amz-security-token" in body, body
    found, _, body = fetch(presigned_by_hand(path), {"x-amz-checksum-mode": "ENABLED"})
    assert (found, code(body)) == (403, "AccessDenied"), body
    assert fetch(GATEWAY + path, signed_by_hand(path) | {"amz-sdk-request": "attempt=1"})[0] == 200


def claim_a_host_behind_a_balancer_is_known_by_name():
    path = "/models/plain.bin"
    for host, status in [("gw.forebay.test:8080", 200), ("gw.forebay.test", 403), ("elsewhere.forebay.test", 403)]:
        assert fetch(GATEWAY + path, signed_by_hand(path, host=host))[0] == status, host
        assert fetch(presigned_by_hand(path, host=host))[0] == status, host


def claim_virtual_hosts_name_datasets():
    virtual = client(url=f"http://s3.forebay.test:{PORT}", style="virtual")
    for key in KEYS:
        # urllib3 takes a path's leading slashes together, so this key can't be asked for in this style.
        if key != "//":
            assert read(virtual, key) == body_of(key), key
    assert virtual.head_bucket(Bucket="models")
    assert [entry["Key"] for entry in virtual.list_objects_v2(Bucket="models", Prefix="a")["Contents"]][0] == "a b+c.bin"
    url = virtual.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": "-/x.bin"})
    assert url.startswith("http://models.s3.forebay.test"), url
    assert fetch(url)[2] == body_of("-/x.bin")
    refused(403, "AccessDenied", virtual.list_objects_v2, Bucket="private")


def claim_a_key_reads_only_what_its_list_names():
    for bucket in ("private", "nothing-here"):
        answer = refused(403, "AccessDenied", loader.get_object, Bucket=bucket, Key="plain.bin")
        assert answer["Error"]["Message"] == "Access Denied"
        refused(403, "AccessDenied", loader.list_objects_v2, Bucket=bucket)
        refused(403, "403", loader.head_object, Bucket=bucket, Key="plain.bin")
        refused(403, "403", loader.head_bucket, Bucket=bucket)
        refused(403, "AccessDenied", loader.get_bucket_location, Bucket=bucket)
        url = loader.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "plain.bin"})
        assert fetch(url)[0] == 403
    assert read(admin, "plain.bin", "private") == body_of("plain.bin")
    refused(404, "NoSuchBucket", admin.get_object, Bucket="nothing-here", Key="plain.bin")
    assert [bucket["Name"] for bucket in loader.list_buckets()["Buckets"]] == ["models"]
    assert [bucket["Name"] for bucket in admin.list_buckets()["Buckets"]] == ["models", "private"]


def claim_a_304_and_a_412_need_credentials_too():
    where = {"Bucket": "models", "Key": "plain.bin"}
    etag = loader.head_object(**where)["ETag"]
    refused(304, "304", loader.get_object, IfNoneMatch=etag, **where)
    refused(403, "SignatureDoesNotMatch", client(secret="wrong").get_object, IfNoneMatch=etag, **where)
    refused(403, "SignatureDoesNotMatch", client(secret="wrong").get_object, IfMatch='"no"', **where)
    assert fetch(f"{GATEWAY}/models/plain.bin", {"If-None-Match": etag})[0] == 401


def claim_signed_requests_may_choose_fields_of_the_answer():
    chosen = {"ResponseContentType": "text/plain; charset=ä", "ResponseContentDisposition": "attachment"}
    answer = loader.get_object(Bucket="models", Key="plain.bin", ResponseContentDisposition='attachment; filename="a b"')
    assert answer["ContentDisposition"] == 'attachment; filename="a b"'
    chosen["ResponseContentType"] = "text/plain"
    url = loader.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": "plain.bin", **chosen})
    _, fields, _ = fetch(url)
    assert (fields["Content-Type"], fields["Content-Disposition"]) == ("text/plain", "attachment")
    assert fetch(url.replace("text%2Fplain", "text%2Fhtml"))[0] == 403
    plain = {"Authorization": f"Bearer LOADER:{SECRETS['LOADER']}"}
    status, _, body = fetch(f"{GATEWAY}/models/plain.bin?response-content-type=text%2Fhtml", plain)
    assert (status, code(body)) == (400, "InvalidRequest"), body


def aws(*arguments, **secrets):
    env = {"PATH": os.environ["PATH"], "HOME": tempfile.gettempdir(), "AWS_DEFAULT_REGION": "eu-central-1", "AWS_MAX_ATTEMPTS": "1"}
    env |= {"AWS_ACCESS_KEY_ID": "LOADER", "AWS_SECRET_ACCESS_KEY": SECRETS["LOADER"]} | secrets
    program = pathlib.Path(sys.executable).with_name("aws")
    command = [sys.executable, program, "--endpoint-url", GATEWAY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def claim_the_aws_command_line_signs_and_presigns():
    for key in ("a b+c.bin", "~tilde!*'().bin", "模型/ä.bin", '"quoted" \'both\'.bin'):
        with tempfile.TemporaryDirectory() as place:
            done = aws("s3", "cp", f"s3://models/{key}", f"{place}/out")
            assert done.returncode == 0, done.stderr
            assert pathlib.Path(place, "out").read_bytes() == body_of(key), key
    done = aws("s3", "ls", "s3://models/")
    assert "plain.bin" in done.stdout, done.stderr
    done = aws("s3", "presign", "s3://models/a b+c.bin", "--expires-in", "60")
    assert fetch(done.stdout.strip())[2] == body_of("a b+c.bin"), done
    done = aws("s3", "ls", "s3://models/", AWS_SECRET_ACCESS_KEY="wrong")
    assert done.returncode != 0 and "SignatureDoesNotMatch" in done.stderr, done.stderr
    done = aws("s3", "ls", "s3://private/")
    assert done.returncode != 0 and "AccessDenied" in done.stderr, done.stderr


def main():
    failed = 0
    for name, claim in [(name, value) for name, value in globals().items() if name.startswith("claim_")]:
        try:
            claim()
            print("ok", name)
        except Exception:
            failed += 1
            print("FAILED", name)
            traceback.print_exc()
    sys.exit(1 if failed else 0)


main()
