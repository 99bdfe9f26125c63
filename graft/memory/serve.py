"""Plan the memory that `graft serve` will take, from headers, config and patches alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from graft.memory.activations import estimate_activations
from graft.memory.model import allocate_weights
from graft.memory.plan import Allocation, MemoryPlan
from graft.mixture.generation.continuous_batch import MOST_TOKENS
from graft.patch.skill_patch import Patch
from graft.specs.data import DataSpec
from graft.specs.head import HeadSpec
from graft.specs.runtime import DEFAULT, Runtime
from graft.specs.task import TaskSpec
from graft.tasks.batches import longest_input
from graft.tasks.placement import find_device
from graft.tensors.architecture import build_on_meta
from graft.tensors.checkpoint import Checkpoint
from graft.train.master_weights import loaded_dtype

# bytes of a skill an entry, and a tensor with entries: on a 22M encoder at most, of 2,271 to 227,100 entries
PER_ENTRY, PER_TENSOR = 40, 5000


def plan_serving(
    checkpoint: Checkpoint,
    patches: Sequence[Patch],
    *,
    most_rows: int,
    most_tokens: int,
    writes: bool,
    runtime: Runtime = DEFAULT,
) -> MemoryPlan:
    """Plan what a base with skills will take that are kept for rows of batches; of the base no weight is read.

    Args:
        checkpoint: the base.
        patches: the skills.
        most_rows, most_tokens: of a batch.
        writes: whether texts are generated.
        runtime: device and dtype.

    Raises:
        ConfigError: no such device or dtype.
    """
    kind = loaded_dtype(checkpoint, runtime.dtype)
    k = sum(len(patch) for patch in patches)
    n_tensors = sum(len(patch.mask.specs) for patch in patches)
    dense = sum(tensor.nbytes for patch in patches for tensor in patch.dense.values())
    model = build_on_meta(checkpoint.path)
    parts = [
        allocate_weights(checkpoint, kind),
        Allocation(f"{len(patches):,} skills, {k:,} entries", PER_ENTRY * k + PER_TENSOR * n_tensors),
        Allocation("whole tensors that skills bring", dense),
        _allocate_batch(checkpoint.path, model, most_rows, most_tokens, kind),
    ]
    if writes:
        n_bytes = None if model is None else _bytes_kept(model.config, kind)
        twice = None if n_bytes is None else 2 * MOST_TOKENS * n_bytes  # copied as rows come and go
        parts.append(Allocation("keys and values of texts being written", twice))
    return MemoryPlan.of(find_device(runtime.device), parts)


def _allocate_batch(path: Path, model: Any, most_rows: int, most_tokens: int, kind: torch.dtype) -> Allocation:
    """Return the allocation of a batch of the longest texts, which hold the most attention."""
    if model is None:
        return Allocation("activations, largest batch", None)
    length = min(longest_input(model) or most_tokens, most_tokens)
    rows = min(most_rows, most_tokens // length)
    none = DataSpec("none", "none", "none")
    spec = TaskSpec("serving", none, labels=("a", "b"), head=HeadSpec("classifier"), max_length=length)
    passed = estimate_activations(path, spec, rows, kind, lambda name: True)
    what = f"activations, a batch of {rows:,} x {length:,} tokens"
    return Allocation(what, None if passed is None else passed.without_backward)


def _bytes_kept(config: Any, kind: torch.dtype) -> int | None:
    """Return the bytes of keys and values of a token; None where the config does not tell."""
    config = config.get_text_config()
    keys = ("num_hidden_layers", "num_attention_heads", "hidden_size")
    layers, heads, width = (int(getattr(config, key, None) or 0) for key in keys)
    if not (layers and heads and width):
        return None
    of_head = int(getattr(config, "head_dim", None) or width // heads)
    return 2 * layers * int(getattr(config, "num_key_value_heads", None) or heads) * of_head * kind.itemsize
