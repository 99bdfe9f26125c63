"""Linear layers: find the tensors of a patch that are weights of one, and those that a base stores transposed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graft.interop.export_source import ExportSource
from graft.tensors.architecture import architecture_of, build_on_meta
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import kind_of


def match_linear_layers(source: ExportSource) -> dict[str, str]:
    """Map tensor names to module names, for weights of `torch.nn.Linear` layers that no other module shares.

    The base's config.json describes the modules. Without a base, or with one that transformers does not know, every
    matrix `….weight` that is no embedding by its name counts as such a weight.
    """
    mask = source.patch.mask
    tied = {name for group in source.patch.provenance.tied for name in group}
    matrices = [name for name in mask if len(mask.specs[name].shape) == 2 and name.endswith(".weight")]
    if source.model is None:
        layers = {name: name for name in matrices if kind_of(name) != "embeddings" and name not in tied}
    else:
        architecture = architecture_of(source.model)
        tied |= {name for group in architecture.tied for name in group}
        weights = [f"{name}.weight" for name, module in source.model.named_modules() if type(module) is torch.nn.Linear]
        own = [name for name in weights if name not in tied]
        layers = architecture.name_map.match(matrices, own).found
    return {name: weight.removesuffix(".weight") for name, weight in layers.items()}


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
