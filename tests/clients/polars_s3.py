"""polars: Parquet whole, in part and by a pattern, and CSV."""

import polars

from reading import *

STORE = {"aws_endpoint_url": ENDPOINT, "aws_region": REGION, "aws_virtual_hosted_style_request": "false"}
STORE |= {} if ENDPOINT.startswith("https:") else {"aws_allow_http": "true"}
STORE |= {"aws_access_key_id": ACCESS["id"], "aws_secret_access_key": ACCESS["secret"]} if ACCESS else {"aws_skip_signature": "true"}


def digest(frame):
    return hashlib.sha256(repr(frame.to_dict(as_series=False)).encode()).hexdigest()


def both(way, name, make):
    """MAKE of the object and of the local file."""
    source = f"s3://{BUCKET}/made/{name}"
    made(way, name, digest(make(source, storage_options=STORE)), digest(make(FIXTURES[name])))


def few(source, **options):
    return polars.scan_parquet(source, **options).filter(polars.col("id") > 299_000).select("name").collect()


version(polars.__version__)
for name in ("rows.parquet", "none.parquet"):
    both("read_parquet", name, polars.read_parquet)
both("scan_parquet", "rows.parquet", few)
both("scan_csv", "rows.csv", lambda source, **options: polars.scan_csv(source, **options).collect())
found = polars.scan_parquet(f"s3://{BUCKET}/made/*.parquet", storage_options=STORE).collect()
expected = polars.scan_parquet(str(FIXTURES["rows.parquet"].parent / "*.parquet")).collect()
made("scan_parquet of a pattern", "*.parquet", digest(found.sort("id")), digest(expected.sort("id")))
