"""obstore: whole objects, streams, several ranges at once, a listing, presigned URLs."""

from datetime import timedelta

import obstore
from obstore.store import S3Store

from reading import *

KEYS = {"access_key_id": ACCESS["id"], "secret_access_key": ACCESS["secret"]} if ACCESS else {"skip_signature": True}
HTTP = {} if ENDPOINT.startswith("https:") else {"client_options": {"allow_http": True}}
store = S3Store(BUCKET, endpoint=ENDPOINT, region=REGION, virtual_hosted_style_request=False, **HTTP, **KEYS)

version(obstore.__version__)
for key, size in OBJECTS:
    read("get", key, bytes(store.get(key).bytes()))
    read("stream", key, [bytes(piece) for piece in store.get(key).stream(min_chunk_size=1 << 20)])
    if ACCESS:
        read("presigned", key, fetch(obstore.sign(store, "GET", key, timedelta(minutes=10))))
for key, size in LARGE:
    parts = ranges(size, 5)
    pieces = store.get_ranges(key, starts=[first for first, _ in parts], ends=[last + 1 for _, last in parts])
    read("get_ranges", key, [bytes(piece) for piece in pieces])
# A key with an empty segment makes it refuse the page that it is on.
listed("list", [entry["path"] for page in store.list("plain", chunk_size=2) for entry in page])
