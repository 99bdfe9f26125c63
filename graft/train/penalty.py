"""A penalty on moving important weights: soft protection.

    loss = cross-entropy + phi * sum over layers l of c_l * sum over i in l of Omega_i * (theta_i - theta*_i)^2

(arXiv 2501.13669). Its gradient, 2 * phi * c_l * Omega_i * (theta_i - theta*_i), is added to the loss's own before
clipping; autograd never sees it. The coefficients are c = L * softmax over the L layers of the norms ||Omega_l||_2,
divided by the largest of them: norms as they are (the plain form) are either so small that the softmax is flat or so
large that it picks one layer. The factor L makes their mean 1, so that phi means the same with layers and without;
where exactly the paper puts them is an inference.

Where lr * 2 * phi * c_l * Omega_i nears 2, steps along that gradient overshoot the anchor, and a larger phi then moves
important weights further, not less. The proximal step of the penalty, after the optimizer's and in its metric (as in
`graft.train.l1_proximal`), cannot:

    theta_i <- theta*_i + (theta_i - theta*_i) / (1 + lr * 2 * phi * c_l * Omega_i / s_i)

One mechanism, three methods: with c = 1 and Omega the Fisher information it is EWC (arXiv 1612.00796; phi is half its
lambda), and with Omega = 1 for every weight it is L2 to the base, or L2-SP (Li et al. 2018, arXiv 1802.01483; there
a new head's weights are drawn to 0, here they are left alone).

One weight, its anchor at 0, 2 * phi * c_l * Omega_i = 40, plain SGD at lr .1, the task's own gradient -1 at every step:

    by the gradient    0 -> .1 -> -.2 -> .7 -> -2     (1 - .1 * 40 = -3: each step overshoots threefold, and diverges)
    proximal           0 -> .02 -> .024 -> .025 -> …  (divided by 1 + .1 * 40 = 5: it settles where both balance, 1/40)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

from graft.errors import MismatchError
from graft.patch.mask import Indices
from graft.specs.regularize import RegularizeSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import take
from graft.tensors.live_weight import LiveWeight
from graft.tensors.scope import layer_of
from graft.train.importance.importance_weights import ImportanceWeights, check_anchor
from graft.train.l1_proximal import second_moment_scale
from graft.train.trainable_weights import match_trainable


@dataclass(frozen=True, eq=False)
class PenaltyTerm:
    """The penalty on one tensor.

    Attributes:
        weight: the live tensor, with its gradient.
        indices: (k,) flat, int32 where the tensor's size allows; None for every entry.
        anchors: (k,) values, or the whole tensor.
        omega: (k,) in a float dtype, or None for 1.
        factor: 2 * phi * c_l.
    """

    weight: LiveWeight
    indices: torch.Tensor | None
    anchors: torch.Tensor
    omega: torch.Tensor | None
    factor: float

    def add_gradient(self) -> None:
        """Add factor * omega * (weight - anchor) to the weight's gradient."""
        gradient = self.weight.grad
        if gradient is None:
            return
        added, gradient = self._pull(self.weight.values), gradient.view(-1)
        gradient.add_(added) if self.indices is None else gradient.index_add_(0, self.indices, added)

    def gradient_at(self, values: torch.Tensor) -> torch.Tensor:
        """Return the penalty's own gradient where the weight has other values, in their shape."""
        pull = self._pull(values)
        if self.indices is None:
            return pull.view(values.shape)
        return pull.new_zeros(values.numel()).index_add_(0, self.indices, pull).view(values.shape)

    def shrink(self, learning_rate: float, optimizer: torch.optim.Optimizer) -> None:
        """Take the proximal step in the metric of the optimizer."""
        scale, anchors = second_moment_scale(self.weight, optimizer), self._anchors()
        strength = learning_rate * self.factor * (1.0 if self.omega is None else self.omega.float())
        flat = self.weight.values.view(-1)
        divisor = 1 + (strength if scale is None else strength / self._select(scale))
        delta = (self._select(flat) - anchors).div_(divisor)
        values = torch.where(delta == 0, anchors, anchors + delta)  # exactly the anchor's bits where it did not move
        if self.indices is None:
            flat.copy_(values)
        else:
            flat.index_copy_(0, self.indices.long(), values)

    def _pull(self, values: torch.Tensor) -> torch.Tensor:
        pull = (self._select(values) - self._anchors()).mul_(self.factor)
        return pull if self.omega is None else pull.mul_(self.omega.float())

    def _select(self, tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.detach().view(-1)
        return flat if self.indices is None else flat.index_select(0, self.indices)

    def _anchors(self) -> torch.Tensor:
        return self.anchors.view(-1).to(self.weight.values)  # of the base's file, where they are read from it


class Penalty:
    """The penalty on a model in training.

    Attributes:
        terms: one per tensor, without those of strength 0.
        proximal: it acts by proximal steps, and not by its gradient.
    """

    def __init__(self, terms: list[PenaltyTerm], *, proximal: bool = False) -> None:
        self.terms = [term for term in terms if term.factor]
        self.proximal = proximal

    @classmethod
    def to_base(cls, model: torch.nn.Module, base: Checkpoint, config: RegularizeSpec) -> Penalty:
        """Make L2 to the base: all trained weights equal, the anchors read from the base's mapped file."""
        trained = match_trainable(model, base.names)
        terms = [
            PenaltyTerm(weight, None, base.read(name), None, 2 * config.strength) for name, weight in trained.items()
        ]
        return cls(terms, proximal=config.step == "proximal")

    @classmethod
    def of(
        cls, model: torch.nn.Module, base: Checkpoint, importance: ImportanceWeights, config: RegularizeSpec
    ) -> Penalty:
        """Make the penalty by importance weights of the base, on those of its weights that train.

        Raises:
            MismatchError: none of its tensors trains, or it belongs to another checkpoint.
        """
        trained = match_trainable(model, tuple(importance.mask))
        if not trained:
            raise MismatchError("the importance file holds no tensor that trains: it is another model's, or scope's")
        importance = importance if config.elements else _average(importance)
        factors = penalty_coefficients(importance, config)
        base_names = {weight.memory_key: name for name, weight in match_trainable(model, base.names).items()}
        terms = []
        for name, weight in trained.items():
            anchor = base.read(base_names[weight.memory_key])
            check_anchor(importance, name, anchor)
            factor = 2 * factors[name] * importance.scale
            terms.append(_make_term(weight, importance.mask[name], anchor, importance.omega[name], factor))
        return cls(terms, proximal=config.step == "proximal")

    @property
    def added_gradients(self) -> dict[tuple[object, ...], Callable[[torch.Tensor], torch.Tensor]]:
        """What `before_step` adds to gradients, as a function of a weight's values: memory key -> function."""
        return {} if self.proximal else {term.weight.memory_key: term.gradient_at for term in self.terms}

    @torch.no_grad()
    def before_step(self) -> None:
        """Add the penalty's gradient to that of the loss, where it acts by that."""
        for term in () if self.proximal else self.terms:
            term.add_gradient()

    @torch.no_grad()
    def after_step(self, learning_rate: float, optimizer: torch.optim.Optimizer) -> None:
        """Take the proximal step, where it acts by that."""
        for term in self.terms if self.proximal else ():
            term.shrink(learning_rate, optimizer)


def open_penalty(
    model: torch.nn.Module, base: Checkpoint, importance: ImportanceWeights | None, config: RegularizeSpec
) -> Penalty:
    """Return the penalty by importance weights, or L2 to the base where there are none."""
    return Penalty.of(model, base, importance, config) if importance else Penalty.to_base(model, base, config)


def penalty_coefficients(importance: ImportanceWeights, config: RegularizeSpec) -> dict[str, float]:
    """Return phi * c_l by tensor name."""
    layers = sorted({layer_of(name) for name in importance.mask})
    squares = dict.fromkeys(layers, 0.0)
    for name in importance.mask:
        squares[layer_of(name)] += float(importance.omega_of(name).double().square().sum())
    norms = torch.tensor([squares[layer] for layer in layers], dtype=torch.float64).sqrt()
    by_layer = dict(zip(layers, softmax_coefficients(norms, config.layers).tolist(), strict=True))
    return {name: config.strength * by_layer[layer_of(name)] for name in importance.mask}


def softmax_coefficients(norms: torch.Tensor, layers: str) -> torch.Tensor:
    """Return (L,) coefficients of mean 1 for (L,) norms above 0, by the mode `layers` of the regularize block."""
    if layers == "none":
        return torch.ones_like(norms)
    return len(norms) * (norms / norms.max() if layers == "normalized" else norms).softmax(0)


def _average(importance: ImportanceWeights) -> ImportanceWeights:
    """Set every omega to the mean of all, which leaves their sum as it is."""
    mean = sum(float(importance.omega_of(name).double().sum()) for name in importance.mask) / len(importance.mask)
    omega = {name: torch.full_like(values, mean, dtype=torch.float32) for name, values in importance.omega.items()}
    return dataclasses.replace(importance, omega=omega, scale=1.0)


def _make_term(
    weight: LiveWeight, indices: Indices, anchor: torch.Tensor, omega: torch.Tensor, factor: float
) -> PenaltyTerm:
    """Make the term of a tensor; a whole anchor stays mapped from the base's file, part of one is copied."""
    device, n = weight.owner.device, weight.values.numel()
    omega = omega.to(device)
    if indices.size == n:
        return PenaltyTerm(weight, None, anchor.to(device), omega, factor)
    positions = torch.tensor(indices, dtype=torch.int32 if n < 2**31 else torch.int64)
    return PenaltyTerm(weight, positions.to(device), take(anchor, positions).to(device), omega, factor)
