"""Interpolation between base and tuned on a live model, undone afterwards: tensor by tensor, with one model in memory.

Grafts are compared with it: with the straight line from base to tuned, and with random entries of any density.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from graft.errors import MismatchError
from graft.patch.live import LiveTarget
from graft.patch.whole_tensors import match_whole_tensors
from graft.scores.random import draw
from graft.tensors.dtypes import same_bits
from graft.tensors.pair import CheckpointPair

# name and both checkpoints' values of one tensor, in the base's dtype -> its values in the mix
Mix = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]


@contextlib.contextmanager
def interpolated(model: torch.nn.Module, pair: CheckpointPair, mix: Mix) -> Iterator[None]:
    """Let the model hold, inside the block, mix(base, tuned) in every floating-point tensor of the pair.

    Whole tensors that only the tuned checkpoint has, such as a classifier head, are the tuned ones, as in a graft.
    Afterwards every tensor is as before, bit for bit: it is read from the base's file again, not kept in memory.

    Raises:
        MismatchError: the model does not hold the base's values, so that it could not be put back.
    """
    tensors, heads = _match_tensors(model, pair)
    for name, tensor in tensors.items():
        if not same_bits(tensor.detach().cpu(), pair.base.read(name).to(tensor.dtype)):
            raise MismatchError(f"tensor {name!r} of the model does not hold the base's values")
    originals = {name: tensor.detach().clone() for name, tensor in heads.items()}
    try:
        for name, tensor in tensors.items():
            tensor.detach().copy_(mix(name, *pair.read(name)))
        for name, tensor in heads.items():
            tensor.detach().copy_(pair.read_whole(name))
        yield
    finally:
        for name, tensor in tensors.items():
            tensor.detach().copy_(pair.base.read(name))
        for name, tensor in heads.items():
            tensor.detach().copy_(originals[name])


def interpolate(alpha: float) -> Mix:
    """Return base + alpha · (tuned - base) in fp32, rounded to the base's dtype; exactly the ends at 0 and 1."""

    def mix(name: str, base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
        """Mix a tensor of the base with the tuned one."""
        return tuned if alpha == 1 else torch.lerp(base.float(), tuned.float(), alpha).to(base.dtype)

    return mix


@dataclass(frozen=True)
class RandomShare:
    """The tuned values at a random share of the weights of some tensors, the base's elsewhere.

    An entry is taken where the draw of `graft.scores.random` is at least 1 - share: with one seed a larger
    share holds every smaller one, and contains (but for its exact k) the "random" patch of that seed.

    Attributes:
        names: base names of the tensors in scope.
        share: of their weights, in 0..1.
        seed: of the draws.
    """

    names: frozenset[str]
    share: float
    seed: int = 0

    def __call__(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
        """Mix one tensor."""
        return torch.where(self.select(name, base), tuned, base) if name in self.names else base

    def select(self, name: str, base: torch.Tensor) -> torch.Tensor:
        """Select the entries to take, bool in the tensor's shape."""
        return (draw(name, base.numel(), self.seed) >= 1 - self.share).view(base.shape)

    def count(self, pair: CheckpointPair) -> int:
        """Count the selected entries that changed: the k of a patch with this effect."""
        selections = (
            (self.select(name, pair.base.read(name)).flatten(), pair.read_delta(name)[1]) for name in self.names
        )
        return sum(int((chosen & changed).sum()) for chosen, changed in selections)


@dataclass(frozen=True)
class Match:
    """Setting of a control that was chosen on validation.

    Attributes:
        setting: its value.
        accuracy: its accuracy on validation.
    """

    setting: float
    accuracy: float


def match_accuracy(
    settings: Sequence[float], accuracy_of: Callable[[float], float], target: float, *, nearest: bool = False
) -> Match:
    """Try ascending settings up to the first whose validation accuracy reaches the target.

    Args:
        settings: at least one, starting nearest to the base.
        accuracy_of: returns the validation accuracy at a setting; not called beyond the first that reaches the target.
        target: the accuracy to reach.
        nearest: take, among the settings tried, the one whose accuracy is nearest to the target (it may lie below it),
            not the first that reaches it.

    Returns:
        The match; where none reaches the target, the nearest. Of two equally near ones, the smaller setting.
    """
    tried: list[Match] = []
    for setting in settings:
        tried.append(Match(setting, accuracy_of(setting)))
        if tried[-1].accuracy >= target:
            break
    if tried[-1].accuracy >= target and not nearest:
        return tried[-1]
    return min(tried, key=lambda match: (abs(match.accuracy - target), match.setting))


def _match_tensors(
    model: torch.nn.Module, pair: CheckpointPair
) -> tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]:
    """Return the model's tensors by base name, and those that only the tuned checkpoint has."""
    target = LiveTarget(model)
    wanted = [name for name in pair.names if pair.base.spec(name).is_float]
    matched = target.match(wanted)
    names = dict(matched.found)
    for name in matched.missing:  # a tied tensor may be listed under another name of its group
        if siblings := pair.base.tied.listed(name, target.names):
            names[name] = siblings[0]
    return {name: target.tensors[own_name] for name, own_name in names.items()}, match_whole_tensors(target, pair)
