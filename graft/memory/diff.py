"""Plan the memory and disk that `graft diff` will take, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from graft.errors import BudgetError
from graft.files.tensor_spec import ITEM_SIZES, TensorSpec
from graft.localize import top_deltas
from graft.localize.budget import resolve_budget
from graft.localize.diagnosis import SAMPLE
from graft.memory.plan import Allocation, MemoryPlan
from graft.patch.format.coding import CONTINUE
from graft.sources.opening import Model, open_pair
from graft.tensors.pair import CHUNK
from graft.tensors.scope import Scope

# bytes, measured
PER_ENTRY = 44  # per entry of the patch: its index twice, values, code, and bytes of the file
PER_SAMPLED = 26  # per weight in the sample by which the largest deltas are sought
PER_CHUNK = 64  # per weight of the chunk at work in each thread
PER_DIAGNOSED = 24  # per weight in the diagnosis's sample
ROW = 256  # bytes of a row of a patch's table, with a long name
METADATA = 1 << 14  # bytes of a patch's metadata


def plan_diff(
    base: Model,
    tuned: Model,
    out: Path | None = None,
    *,
    density: float | None = None,
    budget: int | None = None,
    scope: str = "all",
    with_base_values: bool = False,
) -> MemoryPlan:
    """Plan what `diff_checkpoints`, the diagnosis and saving the patch will take; no weight is read.

    Without density and budget all changed entries are kept; headers do not tell how many, so that the plan is
    for all weights.

    Args:
        base, tuned, density, budget, scope, with_base_values: as in `diff_checkpoints`.
        out: the patch file; without it only the diagnosis is planned.

    Raises:
        BudgetError, CheckpointError, MismatchError, ConfigError: the diff would be refused.
    """
    pair = open_pair(base, tuned)
    specs = {name: pair.base.spec(name) for name in pair.names_in(Scope(scope))}
    n = sum(spec.numel for spec in specs.values())
    threads = torch.get_num_threads()
    step = -(-n // SAMPLE) | 1  # the diagnosis reads every step-th weight; odd, as there
    parts = [
        Allocation("chunks of both at work", PER_CHUNK * CHUNK * threads),
        Allocation("diagnosis: its sample", PER_DIAGNOSED * sum(-(-spec.numel // step) for spec in specs.values())),
    ]
    if out is not None:
        item = max(ITEM_SIZES[spec.dtype] for spec in specs.values())
        if density is None and budget is None:
            k, label = n, f"changed entries (at most {n:,})"
        else:
            k = resolve_budget(pair.base.n_parameters, density or 0.0, budget)
            if k > n:
                raise BudgetError(f"a budget of {k:,} entries, but only {n:,} weights are in scope")
            label = f"the largest {k:,} deltas"
            parts.append(Allocation("sample of the deltas", PER_SAMPLED * min(n, top_deltas.SAMPLE)))
        item *= 2 if with_base_values else 1
        dense_bytes = sum(pair.tuned.n_bytes(name) for name in (*pair.extra, *pair.replaced.values()))
        dense_bytes += sum(
            pair.tuned.n_bytes(pair.names[name]) for name in pair.whole_in(Scope(scope)) if name in pair.grown
        )  # more than the new rows alone, since whole tensors are read
        parts += [
            Allocation(label, PER_ENTRY * k),
            Allocation("whole tensors that the base lacks", 3 * dense_bytes),
            Allocation("patch file at most", _max_patch_bytes(specs, k, item) + dense_bytes, "disk"),
        ]
    tensors = [(pair.base, name) for name in pair.base.names] + [(pair.tuned, name) for name in pair.names.values()]
    reads = sum(checkpoint.n_bytes(name) for checkpoint, name in tensors)  # again and again from the page cache
    return MemoryPlan.of(torch.device("cpu"), parts, reads=reads, out=out)


def _max_patch_bytes(specs: Mapping[str, TensorSpec], k: int, item: int) -> int:
    """Return the most bytes that a patch of k entries takes, wherever in the tensors they lie.

    A tensor of n elements takes at most k + n / 65,535 tokens of two bytes, or n / 8 bytes of bits.

    Args:
        specs: the tensors in which they lie.
        k: entries.
        item: bytes of an entry's values.
    """
    n = sum(spec.numel for spec in specs.values())
    return min(2 * (k + n // CONTINUE), n // 8 + len(specs)) + item * k + ROW * len(specs) + METADATA
