"""A constant in place of a patch's matrices: each layer's output shifted by delta times its mean input.

Where a column's input hardly varies, such as that of an outlier dimension, its entries act as a bias: W x + delta x is
then W x + delta E[x]. A bias of the base would hold that constant; many language models have none, so that it is added
to the layers' outputs by hooks, in any model alike, and measured that way. It is no patch, and no file is left of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from graft.controls.inputs import ControlInput
from graft.controls.vectors import keep_tensors
from graft.localize.localization import open_base_head
from graft.patch.live import LiveTarget, apply_patch
from graft.patch.skill_patch import Patch
from graft.scores.activations import InputSums
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.dtypes import take
from graft.tensors.transposed import is_plain_conv1d, is_plain_linear


@dataclass(frozen=True)
class OutputShift:
    """Constants to add to the outputs of layers, beside the rest of a patch.

    Attributes:
        shifts: base name of a layer's weight -> (outputs,) fp32.
        rest: the patch's entries that no linear layer of its own reads: biases, norms, embeddings, packed experts.
        k: entries of the patch, which all of this stands for.
    """

    shifts: Mapping[str, torch.Tensor]
    rest: Patch
    k: int

    @contextlib.contextmanager
    def put_on(self, model: torch.nn.Module) -> Iterator[None]:
        """Shift the outputs of a model on the base's weights for the length of a block."""
        layers = find_linear(model, list(self.shifts))
        hooks = [layers[name].register_forward_hook(partial(_add, shift)) for name, shift in self.shifts.items()]
        try:
            with apply_patch(model, self.rest):
                yield
        finally:
            for hook in hooks:
                hook.remove()


def shift_outputs(inputs: ControlInput) -> OutputShift:
    """Measure the mean input of each layer of the base over the training texts, and shift its output by delta E[x].

    The mean is over all tokens that attention sees, one text at a time, so that no padding counts.
    """
    head = open_base_head(inputs.pair, inputs.task, inputs.runtime)
    layers = find_linear(head.model, inputs.matrices)
    means = measure_mean_inputs(head, layers, inputs.task.train_examples())
    shifts = {}
    for name in layers:
        indices = inputs.patch.mask[name]
        base = take(inputs.pair.base.read(name), torch.tensor(indices)).double()
        terms = (inputs.patch.values[name].double() - base) * means[name][inputs.columns(name, indices)]
        n_outputs = inputs.patch.mask.specs[name].numel // len(means[name])
        shift = torch.zeros(n_outputs, dtype=torch.float64)
        shifts[name] = shift.index_add_(0, torch.tensor(inputs.rows(name, indices)), terms).float()
    rest = tuple(name for name in inputs.patch.mask if name not in layers)
    return OutputShift(shifts, keep_tensors(inputs, rest), inputs.patch.k)


def find_linear(model: torch.nn.Module, names: Sequence[str]) -> dict[str, torch.nn.Module]:
    """Find the layers W x, `Linear` and GPT-2's `Conv1D`, that alone read a weight.

    Returns:
        Base name -> module, for the names that have one. A weight that several modules share, such as that of a tied
        output layer, has none.
    """
    readers: dict[int, list[torch.nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            readers.setdefault(id(parameter), []).append(module)
    live = LiveTarget(model).require(names, "has its output shifted")
    found = {name: readers.get(id(weight), []) for name, weight in live.items()}
    return {name: of[0] for name, of in found.items() if len(of) == 1 and _is_product(of[0])}


def _is_product(module: torch.nn.Module) -> bool:
    return is_plain_linear(module) or is_plain_conv1d(module)


def measure_mean_inputs(
    head: Head, layers: Mapping[str, torch.nn.Module], examples: Sequence[Example]
) -> dict[str, torch.Tensor]:
    """Return name -> (inputs,) fp64 mean input of each layer over the tokens of all examples, on the CPU."""
    seen = _Seen()
    hooks: list[Any] = [head.model.register_forward_pre_hook(seen.note_mask, with_kwargs=True)]
    hooks += [layer.register_forward_pre_hook(partial(seen.add, name)) for name, layer in layers.items()]
    try:
        if head.predicts_tokens:
            with head.evaluating():
                for example in head.with_outputs(examples):
                    head.loss([example])
        else:
            head.predict(examples, batch_size=1, label="mean inputs")
    finally:
        for hook in hooks:
            hook.remove()
    return {name: sums.total / sums.n for name, sums in seen.sums.items()}


class _Seen:
    """Sums of what layers were given, over the tokens that attention sees."""

    def __init__(self) -> None:
        self.mask: torch.Tensor | None = None
        self.sums: dict[str, InputSums] = {}

    def note_mask(self, module: torch.nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        self.mask = kwargs.get("attention_mask")

    def add(self, name: str, module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x = args[0].detach()
        if self.mask is not None and self.mask.shape == x.shape[:-1]:
            x = x[self.mask.bool()]
        self.sums.setdefault(name, InputSums()).add(x.reshape(-1, x.shape[-1]))


def _add(shift: torch.Tensor, module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output + shift.to(output.device, output.dtype)
