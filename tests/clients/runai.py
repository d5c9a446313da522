"""The Run:ai model streamer: plain objects, a real model's tensors as vLLM streams them, the files beside it."""

import os

from reading import *

# Read when it is imported and by its library in C++.
os.environ.update(aws_environment(), RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING="0", RUNAI_STREAMER_LOG_TO_STDERR="1")
os.environ |= {} if ACCESS else {"RUNAI_STREAMER_S3_UNSIGNED": "1"}

import importlib.metadata

import safetensors.torch
from runai_model_streamer import FileStreamer, SafetensorsStreamer, list_safetensors, pull_files
from runai_model_streamer.file_streamer import FileChunks


def digest(tensors):
    """Of names, types, shapes and every bit."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + tensor.contiguous().numpy().tobytes())
    return [len(tensors), found.hexdigest()]


version(importlib.metadata.version("runai-model-streamer"))
for key, size in OBJECTS:
    if size == 0:
        # A request for no bytes is none.
        continue
    parts = ranges(size)
    pieces = {}
    with FileStreamer() as streamer:
        chunks = FileChunks.contiguous(0, f"s3://{BUCKET}/{key}", 0, [last - first + 1 for first, last in parts])
        streamer.stream_files([chunks])
        for _, index, buffer in streamer.get_chunks():
            pieces[index] = bytes(buffer.numpy().tobytes())
    read("FileStreamer", key, [pieces[index] for index in sorted(pieces)])

files = list_safetensors(f"s3://{BUCKET}/made/")
assert files == [f"s3://{BUCKET}/made/model.safetensors"], files
with SafetensorsStreamer() as streamer:
    streamer.stream_files(files)
    tensors = {name: tensor.clone() for name, tensor in streamer.get_tensors()}
made("SafetensorsStreamer", "model.safetensors", digest(tensors), digest(safetensors.torch.load_file(FIXTURES["model.safetensors"])))
pull_files(f"s3://{BUCKET}/made/", str(WORK / "pulled"), ignore_pattern=["*.safetensors"])
for name in ("tokenizer.json", "vocab.txt"):
    found, expected = ((folder / name).read_bytes() for folder in (WORK / "pulled", FIXTURES[name].parent))
    made("pull_files", name, hashlib.sha256(found).hexdigest(), hashlib.sha256(expected).hexdigest())
