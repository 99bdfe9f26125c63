"""Checkpoints with a known mask: planted by training its entries alone, and overlaid with another training's drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graft.patch.live import LiveTarget
from graft.patch.mask import Mask
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair


def draw_mask(base: Checkpoint, names: Sequence[str], k: int, seed: int) -> Mask:
    """Draw k entries of some tensors, all equally likely; by other draws than those of the score "random"."""
    specs = {name: base.spec(name) for name in sorted(names)}
    bounds = np.cumsum([0, *(spec.numel for spec in specs.values())])
    rng = np.random.default_rng([seed, k])
    chosen = np.sort(rng.choice(bounds[-1], k, replace=False))
    cuts = np.searchsorted(chosen, bounds)
    parts = zip(specs, bounds, cuts, cuts[1:], strict=False)
    return Mask.of(specs, {name: chosen[first:last] - start for name, start, first, last in parts})


def draw_part(mask: Mask, share: float, seed: int) -> Mask:
    """Draw a share of a mask's entries, rounded to whole ones; of two shares the larger holds the smaller."""
    order = np.random.default_rng([seed, len(mask), 1]).permutation(len(mask))
    kept = np.zeros(len(mask), bool)
    kept[order[: round(share * len(mask))]] = True
    bounds = np.cumsum([0, *(len(mask[name]) for name in mask)])
    parts = zip(mask, bounds, bounds[1:], strict=False)
    return Mask.of(mask.specs, {name: mask[name][kept[first:last]] for name, first, last in parts})


@dataclass(frozen=True, eq=False)
class Drift:
    """What another training did to the same base.

    Attributes:
        pair: base, and the checkpoint of that training.
        names: the tensors that drift.
    """

    pair: CheckpointPair
    names: Sequence[str]

    def size(self) -> float:
        """Return the root mean square of its movement."""
        squares = sum(float(self.pair.read_delta(name)[0].double().square().sum()) for name in self.names)
        return math.sqrt(squares / sum(self.pair.base.spec(name).numel for name in self.names))

    def add_to(self, model: torch.nn.Module, factor: float, still: Mask) -> None:
        """Add `factor` times its movement to a live model's weights, but for the entries of `still`.

        An entry that would come to rest at the base's value after all is left with it.
        """
        with torch.no_grad():
            for name, weight in LiveTarget(model).require(self.names, "is to drift").items():
                step = self.pair.read_delta(name)[0] * factor
                step[torch.tensor(still[name])] = 0
                weight.add_(step.view(weight.shape).to(weight))


def size_at(pair: CheckpointPair, mask: Mask) -> float:
    """Return the root mean square of a movement over a mask."""
    squares = 0.0
    for name in mask:
        squares += float(pair.read_delta(name)[0][torch.tensor(mask[name])].double().square().sum())
    return math.sqrt(squares / len(mask))


def changed_mask(pair: CheckpointPair, names: Sequence[str]) -> Mask:
    """Return the entries that moved."""
    changed = {name: pair.read_delta(name)[1].nonzero().flatten().numpy() for name in names}
    return Mask.of({name: pair.base.spec(name) for name in changed}, changed)
