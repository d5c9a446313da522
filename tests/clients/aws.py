"""AWS's command line: trees, streams, listings, presigned URLs."""

from reading import *

AWS = [beside_python("aws"), "--endpoint-url", ENDPOINT, "--region", REGION, "--cli-read-timeout", 60]
AWS += ["--ca-bundle", CA] if CA else []
AWS += [] if ACCESS else ["--no-sign-request"]
ENV = aws_environment()


def aws(*words):
    return run(*AWS, *words, env=ENV)


version(run(AWS[0], "--version").decode().split()[0].partition("/")[2])
aws("s3", "cp", "--only-show-errors", "--recursive", f"s3://{BUCKET}/", WORK / "copied")
tree("s3 cp --recursive", WORK / "copied")
aws("s3", "sync", "--only-show-errors", f"s3://{BUCKET}/", WORK / "synced")
tree("s3 sync", WORK / "synced")
for key, size in LARGE:
    read("s3 cp -", key, aws("s3", "cp", f"s3://{BUCKET}/{key}", "-"))
    if ACCESS:
        ENV["AWS_CONFIG_FILE"] = str(fresh("config", b"[default]\ns3 =\n  signature_version = s3v4\n"))
        address = aws("s3", "presign", "--expires-in", 600, f"s3://{BUCKET}/{key}").decode().strip()
        read("presigned (s3 presign)", key, fetch(address))
lines = aws("s3", "ls", "--recursive", f"s3://{BUCKET}").decode().splitlines()
listed("s3 ls --recursive", [line.split(maxsplit=3)[3] for line in lines])
