"""Hashes of values and digests of checkpoints: they guard against accident, not malice."""

from __future__ import annotations

import hashlib

import torch

from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import byte_view, to_bytes
from graft.tensors.streaming import stream_tensors


def hash_values(values: torch.Tensor) -> str:
    """Return the first 16 hex digits of SHA-256 of the values' little-endian bytes, in order."""
    return hashlib.sha256(to_bytes(values)).hexdigest()[:16]


def digest_of(checkpoint: Checkpoint) -> str:
    """Hash, as 64 hex digits of SHA-256, name, dtype, shape and bytes of every tensor, in ascending order of name.

    Each tensor is hashed by itself first, so that shards can be read in any order and in parallel.
    """

    def hash_tensor(name: str) -> bytes:
        inner = hashlib.sha256(byte_view(checkpoint.read(name)).data).hexdigest()
        return f"{name}\0{checkpoint.spec(name)}\0{inner}\n".encode()

    digest = hashlib.sha256()
    for line in stream_tensors(hash_tensor, checkpoint.names, lambda name: [(checkpoint, name)], "digest"):
        digest.update(line)
    return digest.hexdigest()
