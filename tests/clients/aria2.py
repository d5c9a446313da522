"""aria2: a file over several connections, and resumed."""

from reading import *

ARIA2 = ["aria2c", "--no-conf", "--quiet", "--max-tries=1", "--allow-overwrite=true", "--auto-file-renaming=false", "-d", WORK]
ARIA2 += [f"--ca-certificate={CA}"] if CA else []
if ACCESS:
    ARIA2 += [f"--http-user={ACCESS['id']}", f"--http-passwd={ACCESS['secret']}"]

version(run("aria2c", "--version").decode().split()[2])
for key, _ in OBJECTS:
    path = fresh("whole")
    run(*ARIA2, "-x", 4, "-s", 4, "-k", "1M", "-o", path.name, url(key))
    read("-x 4 -s 4 (split)", key, path)
for key, size in LARGE:
    path = WORK / "whole"
    run(*ARIA2, "-o", path.name, url(key))
    path = fresh("resume", path.read_bytes()[: size // 3])
    run(*ARIA2, "-c", "-o", path.name, url(key))
    read("-c (resume)", key, path)
