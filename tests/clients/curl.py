"""curl: HTTP/1.1, HTTP/2 in clear and over TLS, resumed, in parallel, by ranges, signed."""

from reading import *

CURL = ["curl", "--silent", "--show-error", "--fail"] + (["--cacert", CA] if CA else [])
BASIC = ["--user", f"{ACCESS['id']}:{ACCESS['secret']}"] if ACCESS else []
TLS = ENDPOINT.startswith("https:")


def whole(way, *options):
    for key, _ in OBJECTS:
        path = fresh("whole")
        spoken = run(*CURL, *options, "--write-out", "%{http_version}", "-o", path, url(key)).decode()
        assert spoken == ("2" if "--http2" in options or "--http2-prior-knowledge" in options else "1.1"), (way, spoken)
        # Of an empty object curl writes no file.
        read(way, key, path if path.exists() else b"")


def parallel():
    with open(fresh("urls"), "w") as config:
        for number, (key, _) in enumerate(OBJECTS):
            print(f'url = "{url(key)}"\noutput = "{fresh(f"parallel-{number}")}"', file=config)
    run(*CURL, *BASIC, "--parallel", "--parallel-immediate", "--parallel-max", 8, "--config", WORK / "urls")
    for number, (key, _) in enumerate(OBJECTS):
        path = WORK / f"parallel-{number}"
        read("--parallel", key, path if path.exists() else b"")


def resume():
    for key, size in LARGE:
        half = run(*CURL, *BASIC, "-r", f"0-{size // 3}", url(key))
        path = fresh("resume", half)
        run(*CURL, *BASIC, "-C", "-", "-o", path, url(key))
        # Now it finds the file complete: 416, which is no error to it unless it is told that every 416 is one.
        said = run(*CURL, "--no-fail", *BASIC, "-C", "-", "--write-out", "%{http_code}", "-o", path, url(key)).decode()
        assert said == "416", said
        read("-C - (resume)", key, path)


def pieces():
    for key, size in LARGE:
        read("-r (ranges)", key, [run(*CURL, *BASIC, "-r", f"{first}-{last}", url(key)) for first, last in ranges(size)])


def unchanged():
    key = OBJECTS[-1][0]
    tag = fresh("etag")
    run(*CURL, *BASIC, "--etag-save", tag, "-o", fresh("whole"), url(key))
    said = run(*CURL, *BASIC, "--etag-compare", tag, "--write-out", "%{http_code}", "-o", fresh("again"), url(key))
    made("--etag-compare", key, said.decode(), "304")


version(run("curl", "--version").decode().split()[1])
whole("HTTP/1.1", "--http1.1", *BASIC)
if TLS:
    whole("h2 over TLS", "--http2", *BASIC)
else:
    whole("h2c", "--http2-prior-knowledge", *BASIC)
parallel()
resume()
pieces()
unchanged()
if ACCESS:
    whole("--aws-sigv4", "--http1.1", *BASIC, "--aws-sigv4", f"aws:amz:{REGION}:s3")
