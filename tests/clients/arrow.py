"""pyarrow: streams, files that are read in places, a listing, Parquet."""

import pyarrow
import pyarrow.dataset
import pyarrow.parquet
from pyarrow.fs import FileSelector, FileType, S3FileSystem

from reading import *

KEYS = {"access_key": ACCESS["id"], "secret_key": ACCESS["secret"]} if ACCESS else {"anonymous": True}
scheme, _, host = ENDPOINT.partition("://")
TLS = {"tls_ca_file_path": CA} if CA else {}
fs = S3FileSystem(endpoint_override=host, scheme=scheme, region=REGION, **KEYS, **TLS)

version(pyarrow.__version__)
for key, size in OBJECTS:
    with fs.open_input_stream(f"{BUCKET}/{key}") as stream:
        read("open_input_stream", key, iter(lambda: stream.read(1 << 20), b""))
    with fs.open_input_file(f"{BUCKET}/{key}") as file:
        read("open_input_file", key, [file.read_at(last - first + 1, first) for first, last in ranges(size)])
listed("FileSelector", [
    info.path.removeprefix(f"{BUCKET}/")
    for info in fs.get_file_info(FileSelector(BUCKET, recursive=True))
    if info.type == FileType.File
])


def digest(table):
    return hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest()


for name in ("rows.parquet", "none.parquet"):
    local = pyarrow.parquet.read_table(FIXTURES[name])
    made("read_table", name, digest(pyarrow.parquet.read_table(f"{BUCKET}/made/{name}", filesystem=fs)), digest(local))
few = pyarrow.dataset.field("id") > 299_000
source = pyarrow.dataset.dataset(f"{BUCKET}/made/rows.parquet", filesystem=fs, format="parquet")
expected = pyarrow.dataset.dataset(FIXTURES["rows.parquet"], format="parquet").to_table(columns=["name"], filter=few)
made("dataset", "rows.parquet", digest(source.to_table(columns=["name"], filter=few)), digest(expected))
