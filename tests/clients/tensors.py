"""Safetensors over fsspec: a model whole, tensor by tensor over S3 and over HTTP, and by a cached file."""

import base64
import struct

import fsspec
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from reading import *

KEYS = {"key": ACCESS["id"], "secret": ACCESS["secret"]} if ACCESS else {"anon": True}
S3 = {"client_kwargs": {"endpoint_url": ENDPOINT, "region_name": REGION, "verify": CA}, **KEYS}
HEADERS = {}
if ACCESS:
    pair = f"{ACCESS['id']}:{ACCESS['secret']}".encode()
    HEADERS = {"client_kwargs": {"headers": {"Authorization": "Basic " + base64.b64encode(pair).decode()}}}
NAME = "model.safetensors"
TYPES = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64, "I32": torch.int32}


def digest(tensors):
    """Of names, types, shapes and every bit."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + tensor.contiguous().numpy().tobytes())
    return [len(tensors), found.hexdigest()]


def one_by_one(file):
    """As a loader does that places each tensor as it comes: the header, then ranges in no order of the file's."""
    (length,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors = {}
    for name in sorted(header, reverse=True):
        entry = header[name]
        first, after = entry["data_offsets"]
        file.seek(8 + length + first)
        values = torch.frombuffer(bytearray(file.read(after - first)), dtype=TYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


version(f"{safetensors.__version__}, fsspec {fsspec.__version__}")
expected = digest(safetensors.torch.load_file(FIXTURES[NAME]))
source = f"s3://{BUCKET}/made/{NAME}"
with fsspec.open(source, "rb", **S3) as file:
    made("load of an S3 file", NAME, digest(safetensors.torch.load(file.read())), expected)
with fsspec.filesystem("s3", **S3).open(source, block_size=1 << 20) as file:
    made("tensor by tensor over S3", NAME, digest(one_by_one(file)), expected)
with fsspec.filesystem("http", **HEADERS).open(url(f"made/{NAME}"), block_size=1 << 20) as file:
    made("tensor by tensor over HTTP", NAME, digest(one_by_one(file)), expected)
cached = fsspec.open_local(f"simplecache::{source}", s3=S3, simplecache={"cache_storage": str(WORK / "cache")})
with safetensors.safe_open(cached, framework="pt") as file:
    made("safe_open of a cached file", NAME, digest({name: file.get_tensor(name) for name in file.keys()}), expected)
