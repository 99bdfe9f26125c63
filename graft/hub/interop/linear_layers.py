"""Which tensors of a patch are weights of linear layers, and what the live model calls those layers."""

from __future__ import annotations

import torch

from graft.hub.interop.export_source import ExportSource
from graft.tensors.architecture import architecture_of
from graft.tensors.scope import kind_of


def match_linear_layers(source: ExportSource) -> dict[str, str]:
    """Tensor name -> module name, for weights of `torch.nn.Linear` layers that share them with no other module.

    The base's config.json tells the modules. Without a base, or without one that transformers knows, every matrix
    `….weight` that is no embedding by its name is taken for one.
    """
    mask = source.patch.mask
    tied = {name for group in source.patch.provenance.tied for name in group}
    matrices = [name for name in mask if len(mask.specs[name].shape) == 2 and name.endswith(".weight")]
    if source.model is None:
        known = {name: name for name in matrices if kind_of(name) != "embeddings" and name not in tied}
    else:
        architecture = architecture_of(source.model)
        tied |= {name for group in architecture.tied for name in group}
        weights = [f"{name}.weight" for name, module in source.model.named_modules() if type(module) is torch.nn.Linear]
        own = [name for name in weights if name not in tied]
        known = architecture.name_map.match(matrices, own).found
    return {name: place.removesuffix(".weight") for name, place in known.items()}
