"""DuckDB with httpfs: blobs, Parquet, CSV, a pattern."""

import importlib.util

import duckdb

from reading import *

package = pathlib.Path(importlib.util.find_spec("duckdb_extension_httpfs").origin).parent
(extension,) = package.glob("extensions/*/httpfs.duckdb_extension")
db = duckdb.connect(config={"home_directory": str(WORK)})
db.execute(f"LOAD '{extension}'")
scheme, _, host = ENDPOINT.partition("://")
pair = f", KEY_ID '{ACCESS['id']}', SECRET '{ACCESS['secret']}'" if ACCESS else ""
db.execute(
    f"CREATE SECRET (TYPE s3, PROVIDER config, ENDPOINT '{host}', REGION '{REGION}', URL_STYLE 'path', USE_SSL {scheme == 'https'}{pair})"
)


def ask(query, *arguments):
    return db.execute(query, arguments).fetchall()


def name(key):
    return f"s3://{BUCKET}/{key}"


version(duckdb.__version__)
for key, _ in OBJECTS:
    ((blob,),) = ask("SELECT content FROM read_blob(?)", name(key))
    read("read_blob", key, blob)


def both(way, file, query):
    found, expected = (ask(query, source) for source in (name(f"made/{file}"), str(FIXTURES[file])))
    made(way, file, repr(found), repr(expected))


both("read_parquet", "rows.parquet", "SELECT count(*), sum(id), min(name), max(name), bit_xor(hash(id, weight, name)) FROM read_parquet(?)")
both("read_parquet", "rows.parquet", "SELECT name FROM read_parquet(?) WHERE id > 299000 ORDER BY id")
both("read_parquet", "none.parquet", "SELECT count(*) FROM read_parquet(?)")
both("read_csv", "rows.csv", "SELECT count(*), sum(id), bit_xor(hash(id, weight, name)) FROM read_csv(?)")
listed("glob", [path.removeprefix(f"s3://{BUCKET}/") for (path,) in ask("SELECT file FROM glob(?)", name("**"))])
