"""rclone: a tree, single objects, a listing, and its own comparison of checksums."""

from reading import *

RCLONE = [beside_python("rclone"), "--config", "/dev/null", "--retries", 1, "--low-level-retries", 1, "--multi-thread-cutoff", "10M"]
RCLONE += ["--ca-cert", CA] if CA else []
ENV = aws_environment() | {"RCLONE_S3_PROVIDER": "Other", "RCLONE_S3_ENDPOINT": ENDPOINT, "RCLONE_S3_REGION": REGION}
if ACCESS:
    ENV |= {"RCLONE_S3_ACCESS_KEY_ID": ACCESS["id"], "RCLONE_S3_SECRET_ACCESS_KEY": ACCESS["secret"]}

version(run(*RCLONE, "version").decode().split()[1].lstrip("v"))
run(*RCLONE, "copy", f":s3:{BUCKET}", WORK / "copied", env=ENV)
tree("copy", WORK / "copied")
for key, _ in OBJECTS:
    read("cat", key, run(*RCLONE, "cat", f":s3:{BUCKET}/{key}", env=ENV))
listed("lsf -R", run(*RCLONE, "lsf", "-R", "--files-only", f":s3:{BUCKET}", env=ENV).decode().splitlines())
# It fails if one differs by size or MD5, which is the ETag.
names = fresh("names", "\n".join(key for key, _ in OBJECTS).encode())
run(*RCLONE, "check", "--one-way", "--files-from-raw", names, f":s3:{BUCKET}", WORK / "copied", env=ENV)
made("check", "", True, True)
