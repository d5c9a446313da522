"""s3fs, through fsspec: whole objects, files that are read in steps, copies, a listing."""

import fsspec
import s3fs

from reading import *

KEYS = {"key": ACCESS["id"], "secret": ACCESS["secret"]} if ACCESS else {"anon": True}
fs = fsspec.filesystem("s3", client_kwargs={"endpoint_url": ENDPOINT, "region_name": REGION, "verify": CA}, **KEYS)

version(s3fs.__version__)
for key, size in OBJECTS:
    name = f"{BUCKET}/{key}"
    read("cat_file", key, fs.cat_file(name))
    with fs.open(name, block_size=5 << 20) as file:
        tail = file.seek(max(0, size - 100)) and file.read()
        file.seek(0)
        pieces = list(iter(lambda: file.read(3 << 20), b""))
        assert not tail or pieces[-1].endswith(tail[-len(pieces[-1]):])
    read("open", key, pieces)
    fs.get_file(name, str(fresh("file")))
    read("get", key, WORK / "file")
listed("find", [name.removeprefix(f"{BUCKET}/") for name in fs.find(BUCKET)])
