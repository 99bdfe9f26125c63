"""A format of tests: tensor name -> indices and values, as JSON. It refuses embeddings."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch

from graft.interop.export_source import ExportSource
from graft.sources.adapters.imported_weights import ImportedWeights
from graft.tensors.dtypes import assign


def write_toy(source: ExportSource, path: Path) -> None:
    patch = source.patch
    path.write_text(json.dumps({name: [patch.mask[name].tolist(), patch.values[name].tolist()] for name in patch.mask}))


def find_unsupported(source: ExportSource) -> dict[str, str]:
    return dict.fromkeys((name for name in source.patch.mask if "embed" in name), "toys have no embeddings")


def read_toy(file: Path) -> ImportedWeights:
    return ImportedWeights({name: partial(_assign, *entries) for name, entries in json.loads(file.read_text()).items()})


def _assign(indices: list[int], values: list[float], base: torch.Tensor) -> torch.Tensor:
    tuned = base.clone()
    assign(tuned, torch.tensor(indices), torch.tensor(values, dtype=base.dtype))
    return tuned
