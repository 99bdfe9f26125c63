"""Which of a base's weights are stored as (in, out): those of transformers' Conv1D layers, as GPT-2 has them."""

from __future__ import annotations

from collections.abc import Sequence

from graft.tensors.architecture import architecture_of, build_on_meta
from graft.tensors.checkpoint import Checkpoint


def find_transposed(base: Checkpoint, weights: Sequence[str]) -> dict[str, bool]:
    """Weight -> whether it is stored so; empty where no config.json tells the base's modules.

    Args:
        base: the base.
        weights: names by a live model.
    """
    model = build_on_meta(base.path) if base.path.is_dir() else None
    if model is None:
        return {}
    kinds = {f"{name}.weight": type(module).__name__ == "Conv1D" for name, module in model.named_modules()}
    found = architecture_of(model).name_map.match(weights, kinds).found
    return {name: kinds[place] for name, place in found.items()}
