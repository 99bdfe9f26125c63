"""Files as composable-sft writes them: its published layouts, made anew from their description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

Tensors = Mapping[str, torch.Tensor]


def encode(difference: torch.Tensor, *, numpy_start: bool = True) -> dict[str, Any]:
    """{"size", "index_steps", "values"}: steps between ascending indices that run down the columns first.

    The first step is a numpy scalar, the others are Python's, as in files of 2021.
    """
    found = np.stack(np.nonzero(difference.numpy()))  # (d, k)
    flat = np.ravel_multi_index(tuple(found), tuple(difference.shape), order="F").astype(np.int64)
    order = np.argsort(flat)
    steps = np.diff(flat[order], prepend=0).tolist()
    first = [np.int64(steps[0])] if numpy_start and steps else steps[:1]
    values = difference[tuple(torch.from_numpy(axis[order]) for axis in found)]
    return {"size": difference.shape, "index_steps": [*first, *steps[1:]], "values": values}


def encoded(differences: Tensors, whole: Tensors) -> dict[str, Any]:
    """The layout {"diffs", "abs"}."""
    return {"diffs": {name: encode(item) for name, item in differences.items()}, "abs": dict(whole)}


def encoded_body(differences: Tensors, whole: Tensors) -> dict[str, Any]:
    """The layout {"body", "head"} with encodings; without a head the key is missing."""
    body = {name: encode(item, numpy_start=False) for name, item in differences.items()}
    return {"body": body, **({"head": dict(whole)} if whole else {})}


def sparse_body(differences: Tensors, whole: Tensors) -> dict[str, Any]:
    """The layout {"body", "head"} with torch's sparse tensors."""
    return {"body": {name: item.to_sparse().coalesce() for name, item in differences.items()}, "head": dict(whole)}


LAYOUTS = {"encoded": encoded, "encoded body": encoded_body, "sparse body": sparse_body}


def write_sft(folder: Path, content: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "pytorch_diff.bin")
    return folder
