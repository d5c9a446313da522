"""What every driver shares: the manifest it was given, and its report on standard output, a line of JSON for each thing read.

A driver knows its client and nothing of what is right: whoever started it compares.
"""

import hashlib
import json
import pathlib
import subprocess
import sys
import urllib.parse

MANIFEST = json.loads(pathlib.Path(sys.argv[1]).read_text())
ENDPOINT, BUCKET, REGION = MANIFEST["endpoint"], MANIFEST["bucket"], MANIFEST["region"]
HOST = ENDPOINT.partition("://")[2]
# An access key id and its secret, or nothing: then requests are not signed.
ACCESS = MANIFEST["access"]
CA = MANIFEST["ca"]
OBJECTS = [(entry["key"], entry["size"]) for entry in MANIFEST["objects"]]
LARGE = [(key, size) for key, size in OBJECTS if size > 8 << 20]
FIXTURES = {name: pathlib.Path(path) for name, path in MANIFEST["fixtures"].items()}
WORK = pathlib.Path(MANIFEST["work"])


def say(**line):
    print(json.dumps(line), flush=True)


def version(text):
    say(version=text)


def read(way, key, body):
    """BODY is the object: its bytes, pieces of them, or the path of a file."""
    digest, size = hashlib.sha256(), 0
    if isinstance(body, pathlib.Path):
        with open(body, "rb") as file:
            body = list(iter(lambda: file.read(1 << 20), b""))
    elif isinstance(body, (bytes, bytearray, memoryview)):
        body = [body]
    for piece in body:
        digest.update(piece)
        size += len(piece)
    say(way=way, key=key, size=size, sha256=digest.hexdigest())


def listed(way, keys):
    say(way=way, keys=list(keys))


def made(way, key, found, expected):
    """FOUND was made of the bytes read through the gateway, EXPECTED the same way of the file on this machine."""
    say(way=way, key=key, found=found, expected=expected)


def path_of(key):
    """The path of the object's URL, encoded once, as S3 signs it."""
    return f"/{BUCKET}/{urllib.parse.quote(key, safe='/~')}"


def url(key):
    return ENDPOINT + path_of(key)


def ranges(size, count=3):
    """Pieces of an object, as pairs of its first and last position."""
    edges = [size * part // count for part in range(count + 1)]
    return [(first, after - 1) for first, after in zip(edges, edges[1:]) if after > first]


def run(*command, env=None, **options):
    """Standard output of a command that must succeed; what it said is shown if it does not."""
    done = subprocess.run([str(word) for word in command], capture_output=True, env=env, **options)
    if done.returncode:
        sys.stderr.write(f"{command}: exit {done.returncode}\n")
        sys.stderr.write(done.stdout.decode(errors="replace")[-4000:] + done.stderr.decode(errors="replace")[-4000:])
        sys.exit(1)
    return done.stdout


def beside_python(program):
    """A program of the environment that this runs in."""
    return pathlib.Path(sys.executable).with_name(program)


def fetch(address):
    """A presigned URL, as whoever it was given to reads it."""
    import urllib.request

    with urllib.request.urlopen(address) as answer:
        return answer.read()


def fresh(name, held=b""):
    """The path of a file below WORK that holds these bytes, or of none."""
    path = WORK / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if held:
        path.write_bytes(held)
    return path


def aws_environment():
    """What AWS's own clients and those that follow them read."""
    import os

    env = dict(os.environ, AWS_ENDPOINT_URL=ENDPOINT, AWS_REGION=REGION, AWS_DEFAULT_REGION=REGION)
    if CA:
        env["AWS_CA_BUNDLE"] = CA
    if ACCESS:
        env |= {"AWS_ACCESS_KEY_ID": ACCESS["id"], "AWS_SECRET_ACCESS_KEY": ACCESS["secret"]}
    return env


def tree(way, folder, prefix=""):
    """Reports files that a client copied below FOLDER, by the keys that their paths stand for."""
    for key, _ in OBJECTS:
        read(way, key, folder / key[len(prefix):])
