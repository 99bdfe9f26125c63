"""Linear layers: find the tensors of a patch that are weights of one."""

from __future__ import annotations

import torch

from graft.interop.export_source import ExportSource
from graft.tensors.architecture import architecture_of
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
