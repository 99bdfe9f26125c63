"""A patch as a LoRA adapter of PEFT whose product B A is the patch's difference, entry by entry.

Per weight, a minimal cover of the patch's entries by rows and columns (`graft.patch.vertex_cover`) gives the rank. One
factor holds a one where the line lies and the other the line's differences, so that each entry of the product has one
nonzero term: no sum rounds. The scale alpha / r is 1. PEFT keeps the factors in float32 (float64 in a float64
layer), and `merge_and_unload` adds the product in float32 and rounds to the weight's dtype: the graft's bits wherever a
difference reaches them (`graft.sources.adapters.additive`). Where a row and a column of the cover cross, the row has
the entry.

A 3 x 3 difference with row 0 = (a, b, c) and b' = (1, 1), b'' = (2, 1) below: row 0 and column 1, rank 2,

    B = (1 0; 0 b'; 0 b'')      A = (a b c; 0 1 0)

What merging adds to the entries in between is +0, which turns a base's -0.0 into +0.0: such entries are counted, and
`--strict` refuses them. Parts beside the factors are described in `graft.interop.lora_parts`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from graft.files.tensor_spec import TensorSpec
from graft.interop.export_source import ExportSource
from graft.interop.lora_parts import LoraParts, sort_tensors
from graft.patch.vertex_cover import Cover
from graft.sources.adapters.additive import difference_dtype, find_difference
from graft.sources.adapters.peft_adapter import CONFIG, PREFIX, WEIGHTS
from graft.tensors.dtypes import DTYPE_NAMES, TORCH_DTYPES, as_bits, assign, spec_of
from graft.tensors.tensor_stream import Planned, write_tensors

Shape = tuple[int, ...]


def find_unsupported(source: ExportSource) -> dict[str, str]:
    """Return the tensors that no part of an adapter holds or that need too high a rank, each with the reason."""
    parts = sort_tensors(source)
    ranks = {name: cover.rank for name, cover in parts.covers.items() if cover.rank > source.max_rank}
    return parts.unsupported | {
        name: f"needs rank {rank}, above --max-rank {source.max_rank}" for name, rank in ranks.items()
    }


def find_assigned(source: ExportSource) -> set[str]:
    """Return the tensors that an adapter holds as values, so that no difference can miss them."""
    parts = sort_tensors(source)
    return {*parts.tokens, *parts.norms}


def count_lost_signs(source: ExportSource) -> int:
    """Count the base's values of -0.0, outside the patch's entries, that adding the product turns into +0.0."""
    parts, count = sort_tensors(source), 0
    names = {module: name for name, module in parts.weights.items()}
    for module in parts.targets:
        name = names.get(module)
        base = parts.read_base(f"{module}.weight") if name is None else source.base_tensor(name)
        zero, n_patched = as_bits(torch.tensor(-0.0, dtype=base.dtype)), 0
        if name is not None:
            n_patched = int((as_bits(source.base_values(name)) == zero).sum())
        count += int(torch.count_nonzero(as_bits(base) == zero)) - n_patched
    return count


def write_lora(source: ExportSource, folder: Path) -> None:
    """Write the adapter into an empty folder, one tensor in memory at a time."""
    parts = sort_tensors(source)
    plan = _plan_factors(parts) | _plan_biases(parts) | _plan_tokens(parts) | _plan_whole(parts)
    write_tensors(folder / WEIGHTS, {f"{PREFIX}{key}": tensor for key, tensor in plan.items()}, {"format": "pt"})
    text = json.dumps(_config(parts), indent=2, sort_keys=True) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def _plan_factors(parts: LoraParts) -> dict[str, Planned]:
    names, plan = {module: name for name, module in parts.weights.items()}, {}
    for module, rank in parts.targets.items():
        name = names.get(module)
        base = parts.read_base(f"{module}.weight") if name is None else parts.source.base_tensor(name)
        dtype = DTYPE_NAMES[difference_dtype(base.dtype)]
        rows, columns = base.shape if module not in parts.transposed else (base.shape[1], base.shape[0])
        for ending, shape in (("lora_A.weight", (rank, columns)), ("lora_B.weight", (rows, rank))):
            spec = TensorSpec(dtype, shape)
            make = partial(torch.zeros, shape, dtype=TORCH_DTYPES[dtype])  # of a bias alone
            if name is not None:
                make = partial(_make_factor, parts, name, is_left=(ending[5] == "B") != (module in parts.transposed))
            plan[f"{module}.{ending}"] = Planned(spec, make)
    return plan


def _make_factor(parts: LoraParts, name: str, *, is_left: bool) -> torch.Tensor:
    left, right = make_factors(
        *_differences(parts.source, name), parts.source.patch.mask.specs[name].shape, parts.covers[name]
    )
    factor = left if is_left else right
    return factor.T.contiguous() if parts.weights[name] in parts.transposed else factor


def make_factors(
    indices: np.ndarray, differences: torch.Tensor, shape: Shape, cover: Cover
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make the factors whose product holds each difference as its one nonzero term.

    Args:
        indices: (k,) flat indices into an (m, n) matrix.
        differences: (k,) finite differences there.
        shape: (m, n).
        cover: r lines that hold the entries.

    Returns:
        (m, r) and (r, n), of the differences' dtype; first the cover's rows, then its columns.
    """
    rows, columns = np.divmod(indices, shape[1])
    slots = np.full(shape[0], -1)
    slots[cover.rows] = np.arange(len(cover.rows))
    of_column = np.zeros(shape[1], np.int64)
    of_column[cover.columns] = len(cover.rows) + np.arange(len(cover.columns))
    left = torch.zeros(shape[0], cover.rank, dtype=differences.dtype)
    right = torch.zeros(cover.rank, shape[1], dtype=differences.dtype)
    left[cover.rows, slots[cover.rows]] = 1
    right[of_column[cover.columns], cover.columns] = 1
    in_row = slots[rows] >= 0
    chosen = torch.from_numpy(in_row)
    right[slots[rows[in_row]], columns[in_row]] = differences[chosen]
    left[rows[~in_row], of_column[columns[~in_row]]] = differences[~chosen]
    return left, right


def _differences(source: ExportSource, name: str) -> tuple[np.ndarray, torch.Tensor]:
    difference, _ = find_difference(source.base_values(name), source.patch.values[name])
    limit = torch.finfo(difference.dtype).max  # an infinite one, counted as missed, would turn its line into NaN
    return source.patch.mask[name], difference.clamp(-limit, limit)


def _plan_biases(parts: LoraParts) -> dict[str, Planned]:
    if not parts.biases:
        return {}
    names, plan = {module: name for name, module in parts.biases.items()}, {}
    for module in parts.targets:
        base = parts.read_base(f"{module}.bias")
        dtype = difference_dtype(base.dtype)
        make = partial(_make_bias, parts.source, names.get(module), torch.full(base.shape, -0.0, dtype=dtype))
        plan[f"{module}.lora_B.bias"] = Planned(TensorSpec(DTYPE_NAMES[dtype], tuple(base.shape)), make)
    return plan


def _make_bias(source: ExportSource, name: str | None, nothing: torch.Tensor) -> torch.Tensor:
    if name is None:
        return nothing  # x + -0.0 has the bits of every x
    indices, differences = _differences(source, name)
    return nothing.index_copy(0, torch.tensor(indices), differences)


def _plan_tokens(parts: LoraParts) -> dict[str, Planned]:
    plan = {}
    for name, module in parts.tokens.items():
        spec = parts.source.patch.mask.specs[name]
        rows = _rows_of(parts.source, name)
        planned = TensorSpec(spec.dtype, (len(rows), spec.shape[1]))
        make = partial(_take_rows, parts.source, name, rows)
        plan[f"{module}.token_adapter.trainable_tokens_delta"] = Planned(planned, make)
    return plan


def _rows_of(source: ExportSource, name: str) -> np.ndarray:
    return np.unique(source.patch.mask[name] // source.patch.mask.specs[name].shape[1])


def _take_rows(source: ExportSource, name: str, rows: np.ndarray) -> torch.Tensor:
    return _graft_tensor(source, name)[torch.tensor(rows)]


def _graft_tensor(source: ExportSource, name: str) -> torch.Tensor:
    tensor = source.base_tensor(name).clone()
    assign(tensor, torch.tensor(source.patch.mask[name]), source.patch.values[name])
    return tensor


def _plan_whole(parts: LoraParts) -> dict[str, Planned]:
    plan, dense = {}, parts.source.patch.dense
    for parameter, name in parts.saved.items():
        if name is not None and name in dense:
            plan[parameter] = Planned(spec_of(dense[name]), partial(dense.__getitem__, name))
            continue
        make = partial(parts.read_base, parameter) if name is None else partial(_graft_tensor, parts.source, name)
        plan[parameter] = Planned(spec_of(parts.read_base(parameter)), make)
    return plan


def _config(parts: LoraParts) -> Mapping[str, object]:
    """Return the config by which PEFT makes room for the factors."""
    ranks = parts.targets
    most = max(ranks.values())
    others = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != most}
    tokens = {module: _rows_of(parts.source, name).tolist() for name, module in sorted(parts.tokens.items())}
    return {
        "alpha_pattern": others,  # alpha = r, so that the scale is 1
        "base_model_name_or_path": parts.source.patch.provenance.base.id,
        "bias": "none",
        "fan_in_fan_out": ranks.keys() <= parts.transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": most,
        "lora_bias": bool(parts.biases),
        "lora_dropout": 0.0,
        "modules_to_save": parts.whole_modules or None,
        "peft_type": "LORA",
        "r": most,
        "rank_pattern": others,
        "target_modules": f"({'|'.join(map(re.escape, ranks))})",  # a list would also match longer names' ends
        "task_type": None,
        "trainable_token_indices": tokens or None,
        "use_rslora": False,
    }
