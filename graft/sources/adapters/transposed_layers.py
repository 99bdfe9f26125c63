"""Weights that a base stores transposed."""

from __future__ import annotations

from collections.abc import Sequence

from graft.tensors.architecture import architecture_of, build_on_meta
from graft.tensors.checkpoint import Checkpoint


def find_transposed(base: Checkpoint, weights: Sequence[str]) -> dict[str, bool]:
    """Tell for each weight whether it is stored as (in, out), as in the Conv1D layers of transformers' GPT-2.

    Args:
        base: the base.
        weights: a live model's names of them.

    Returns:
        Weight -> whether it is; empty where no config.json describes the base's modules.
    """
    model = build_on_meta(base.path) if base.path.is_dir() else None
    if model is None:
        return {}
    is_conv1d = {f"{name}.weight": type(module).__name__ == "Conv1D" for name, module in model.named_modules()}
    architecture = architecture_of(model)
    stored = architecture.name_map.match(weights, is_conv1d).found
    return {weight: is_conv1d[name] for weight, name in stored.items()}
