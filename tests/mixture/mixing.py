"""Patches drawn for a live model, and the rows of a batch by the mixed model and by graft after graft."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

import graft
from graft.patch.skill_patch import Patch
from tests.checkpoints import make_patch

Skill = str | Sequence[str] | None


def draw_patch(model: torch.nn.Module, seed: int, share: float = 0.05, leave_out: Sequence[str] = ()) -> Patch:
    """A share of the entries of every parameter, one at least, moved a good deal."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: weight.detach() for name, weight in model.named_parameters()}
    changes = {}
    for name, tensor in tensors.items():
        if any(part in name for part in leave_out):
            continue
        k = max(1, round(share * tensor.numel()))
        indices = torch.randperm(tensor.numel(), generator=generator)[:k]
        moved = tensor.flatten()[indices].float() + 0.3 * torch.randn(k, generator=generator)
        changes[name] = dict(zip(indices.tolist(), moved.tolist(), strict=True))
    return make_patch(tensors, changes)


def one_by_one(
    model: torch.nn.Module, patches: Mapping[str, Patch], rows: Sequence[Skill], run: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """The output of a batch, each row of it from the model with that row's patches grafted."""
    outputs = []
    for row, skill in enumerate(rows):
        names = [] if skill is None else [skill] if isinstance(skill, str) else list(skill)
        if names:
            with graft.apply_patch(model, *(patches[name] for name in names), on_overlap="last"):
                outputs.append(run()[row])
        else:
            outputs.append(run()[row])
    return torch.stack(outputs)
