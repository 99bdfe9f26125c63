"""Export of large patches as exact LoRA adapters, over a sparse checkpoint of zeros but for the patch's own rows."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from graft.files.tensor_spec import TensorSpec
from graft.interop.exporting import export_patch
from graft.patch.mask import Indices, Mask
from graft.patch.provenance import BaseIdentity, Provenance
from graft.patch.skill_patch import Patch
from graft.patch.vertex_cover import largest_rank
from graft.tensors.hashing import hash_values
from tests.benchmarks.compose import write_zeros
from tests.benchmarks.size import geometries

K = 800_000
MODEL = "TinyLlama, 1.1B, 22 layers"
LINES = 12  # of a matrix whose entries lie in few


def measure() -> list[dict[str, object]]:
    """One row per kind of mask."""
    model = geometries()[MODEL]
    specs = {name: TensorSpec("BF16", tuple(tensor.shape)) for name, tensor in model.named_parameters()}
    matrices = {name: spec for name, spec in specs.items() if name.endswith("proj.weight")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_zeros(folder / "model.safetensors", specs)
        model.config.save_pretrained(folder)  # type: ignore[operator, union-attr]
        few = dict(list(matrices.items())[:7])
        kinds = {"few lines": (matrices, lie_in_lines), "random, in 7 matrices": (few, lie_anywhere)}
        return [_export(folder, kind, *how) for kind, how in kinds.items()]


def lie_in_lines(spec: TensorSpec, k: int, generator: np.random.Generator) -> Indices:
    """k entries of as many columns as they need, at least `LINES` of them."""
    rows, columns = spec.shape
    chosen = generator.choice(columns, max(LINES, -(-k // rows)), replace=False)
    places = generator.choice(rows * len(chosen), k, replace=False)
    return np.sort(places // len(chosen) * columns + chosen[places % len(chosen)])


def lie_anywhere(spec: TensorSpec, k: int, generator: np.random.Generator) -> Indices:
    """k entries at random."""
    return np.unique(generator.choice(spec.numel, k))


def _export(folder: Path, kind: str, specs: dict[str, TensorSpec], place: object) -> dict[str, object]:
    assert callable(place)
    generator, share = np.random.default_rng(0), K // len(specs)
    mask = Mask.of(specs, {name: place(spec, share, generator) for name, spec in specs.items()})
    values = {name: torch.full((len(mask[name]),), 0.5, dtype=torch.bfloat16) for name in mask}
    hashes = {name: hash_values(torch.zeros_like(values[name])) for name in mask}
    patch = Patch(mask, values, hashes, Provenance(base=BaseIdentity(name=MODEL)))
    out = folder / kind.split(",")[0]
    clock, processor = time.perf_counter(), time.process_time()
    done = export_patch(patch, "lora", out, base=str(folder), max_rank=10**6)
    seconds = {"processor s": time.process_time() - processor, "clock s": time.perf_counter() - clock}
    assert done.n_missed == done.lost_signs == 0
    size = (out / "adapter_model.safetensors").stat().st_size
    row = {"mask": kind, "entries": len(mask), "matrices": len(mask.specs), "largest rank": largest_rank(mask)}
    return {**row, "MB": round(size / 1e6, 1), **{key: round(value, 1) for key, value in seconds.items()}}
