"""GNU wget: whole, resumed, and asked again with the time it knows."""

from reading import *

WGET = ["wget", "--no-verbose", "--tries=1"] + ([f"--ca-certificate={CA}"] if CA else [])
if ACCESS:
    WGET += ["--auth-no-challenge", f"--user={ACCESS['id']}", f"--password={ACCESS['secret']}"]

version(run("wget", "--version").decode().split()[2])
for key, _ in OBJECTS:
    path = fresh("whole")
    run(*WGET, "-O", path, url(key))
    read("whole", key, path)
for key, size in LARGE:
    path = fresh("resume")
    run(*WGET, "-O", path, url(key))
    path = fresh("resume", path.read_bytes()[: size // 3])
    # The second time there is nothing left to ask for.
    for _ in range(2):
        run(*WGET, "-c", "-O", path, url(key))
        read("-c (resume)", key, path)
key = "plain/one.bin"
for _ in range(2):
    said = subprocess.run([*WGET, "--server-response", "-N", "-P", str(WORK / "dated"), url(key)], capture_output=True)
    assert said.returncode == 0, said.stderr
made("-N", key, "304 Not Modified" in said.stderr.decode(), True)
