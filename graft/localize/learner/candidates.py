"""Candidates: the coordinates that a learned mask may keep, as live weights and as one flat vector.

A mask learner needs one model, one tensor's gradient at a time, and a few numbers per candidate: a hook gathers
the candidates' entries of each gradient as soon as it is there and frees the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch

from graft.patch.mask import Mask
from graft.tensors.dtypes import assign, take
from graft.tensors.pair import CheckpointPair

Groups = Sequence[tuple[tuple[str, ...], int]]  # (names, share of the budget), as `allocate` gives


class Candidates:
    """Coordinates of a live model that are the base's or the tuned model's, one by one.

    Attributes:
        mask: the n coordinates; vectors over them run by tensor name, then index.
        movement: (n,) fp32, tuned - base in the live model's dtype.

    Args:
        pair: base and tuned checkpoints.
        weights: base name -> live tensor, holding the base's values.
        mask: the coordinates.
        groups: how the budget is shared out.
    """

    def __init__(self, pair: CheckpointPair, weights: Mapping[str, torch.Tensor], mask: Mask, groups: Groups) -> None:
        self.mask = mask
        self._weights = {name: weights[name] for name in mask}
        self._indices = {name: torch.tensor(mask[name]) for name in mask}
        self._values = {name: self._endpoints(pair, name) for name in mask}
        self.movement = torch.cat([tuned.float() - base.float() for base, tuned in self._values.values()])
        ends = torch.tensor([0, *(len(mask[name]) for name in mask)]).cumsum(0).tolist()
        self._slices = dict(zip(mask, map(slice, ends, ends[1:]), strict=True))
        self._groups = [(self._places(names), share) for names, share in groups]

    def __len__(self) -> int:
        return len(self.mask)

    def keep_top(self, scores: torch.Tensor) -> torch.Tensor:
        """(n,) bool: in each group its share of the highest scores; ties go to the earlier coordinate."""
        kept = torch.zeros(len(self), dtype=torch.bool)
        for places, share in self._groups:
            order = scores[places].argsort(descending=True, stable=True)
            kept[places[order[:share]]] = True
        return kept

    def write(self, kept: torch.Tensor) -> None:
        """Set the live coordinates: the tuned value where `kept` (n,) bool says so, the base's elsewhere."""
        for name, (base, tuned) in self._values.items():
            assign(self._weights[name], self._indices[name], torch.where(kept[self._slices[name]], tuned, base))

    def mask_of(self, kept: torch.Tensor) -> Mask:
        """The kept coordinates as a mask."""
        indices = {name: self.mask[name][kept[part].numpy()] for name, part in self._slices.items()}
        return Mask.of(self.mask.specs, indices)

    @contextlib.contextmanager
    def gathering(self, model: torch.nn.Module) -> Iterator[torch.Tensor]:
        """A context in which backward passes add the candidates' gradients to the (n,) fp32 vector it gives.

        Only the weights with candidates take gradients, and none keeps its own.
        """
        gathered = torch.zeros(len(self))
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        hooks = []
        for name, weight in self._weights.items():
            weight.requires_grad_(True)
            gather = partial(self._gather, gathered, name)
            hooks.append(weight.register_post_accumulate_grad_hook(gather))  # type: ignore[no-untyped-call]
        try:
            yield gathered
        finally:
            for hook in hooks:
                hook.remove()

    def _gather(self, gathered: torch.Tensor, name: str, weight: torch.Tensor) -> None:
        assert weight.grad is not None
        gathered[self._slices[name]] += take(weight.grad, self._indices[name]).float().cpu()
        weight.grad = None

    def _endpoints(self, pair: CheckpointPair, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = self._weights[name].dtype
        base, tuned = (take(tensor, self._indices[name]).to(dtype) for tensor in pair.read(name))
        return base, tuned

    def _places(self, names: tuple[str, ...]) -> torch.Tensor:
        parts = [self._slices[name] for name in sorted(names) if name in self._slices]
        return torch.cat([torch.arange(part.start, part.stop) for part in parts])
