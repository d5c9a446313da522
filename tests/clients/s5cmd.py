"""s5cmd: single objects as they are named, a tree, a listing."""

from reading import *

S5CMD = [beside_python("s5cmd"), "--endpoint-url", ENDPOINT, "--retry-count", 0] + ([] if ACCESS else ["--no-sign-request"])
ENV = aws_environment()

version(run(S5CMD[0], "version").decode().split("-")[0].lstrip("v"))
for key, _ in OBJECTS:
    path = fresh("file")
    run(*S5CMD, "cp", "--raw", f"s3://{BUCKET}/{key}", path, env=ENV)
    read("cp", key, path)
    read("cat", key, run(*S5CMD, "cat", "--raw", f"s3://{BUCKET}/{key}", env=ENV))
run(*S5CMD, "sync", f"s3://{BUCKET}/*", WORK / "synced/", env=ENV)
tree("sync", WORK / "synced")
lines = run(*S5CMD, "--json", "ls", f"s3://{BUCKET}/*", env=ENV).decode().splitlines()
listed("ls", [json.loads(line)["key"].removeprefix(f"s3://{BUCKET}/") for line in lines])
