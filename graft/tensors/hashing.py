"""Hashes of values and digests of checkpoints: they guard against accident, not malice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from graft.files.tensor_spec import TensorSpec
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
        return digest_line(name, checkpoint.spec(name), digest_of_values(checkpoint.read(name)))

    return digest_of_lines(stream_tensors(hash_tensor, checkpoint.names, lambda name: [(checkpoint, name)], "digest"))


def digest_of_values(values: torch.Tensor) -> str:
    """Return all 64 hex digits of SHA-256 of a tensor's little-endian bytes."""
    return hashlib.sha256(byte_view(values).data).hexdigest()


def digest_line(name: str, spec: TensorSpec, digest: str) -> bytes:
    """Return what a checkpoint's digest takes in of one tensor: name, dtype, shape, digest of the values."""
    return f"{name}\0{spec}\0{digest}\n".encode()


def digest_of_lines(lines: Iterable[bytes]) -> str:
    """Return the digest of a checkpoint, from its tensors' lines in ascending order of name."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()
