"""Weights that a base stores transposed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from graft.errors import CheckpointError
from graft.tensors.architecture import architecture_of, build_on_meta
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import kind_of

_MAYBE_CONV1D = re.compile(r"(^|[._])c_\w+\.weight$")  # (in, out) in GPT-2, and in others as every matrix is


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


def find_input_axes(base: Checkpoint, matrices: Sequence[str]) -> dict[str, int]:
    """Return for each matrix which of its two axes its inputs number: 1, of a Conv1D 0, of embeddings, by token, 0.

    Raises:
        CheckpointError: a name that may be a Conv1D's, and nothing describes the base's modules.
    """
    transposed = find_transposed(base, matrices)
    for name in matrices:
        if name not in transposed and _MAYBE_CONV1D.search(name):
            raise CheckpointError(
                f"tensor {name!r}: which axis is its input is told by the model's config.json, which is not at hand"
            )
    return {name: 0 if transposed.get(name) or kind_of(name) == "embeddings" else 1 for name in matrices}
