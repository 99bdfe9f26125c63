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
from graft.scores.activations import sum_inputs
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.dtypes import take
from graft.tensors.live_weight import find_readers
from graft.tensors.transposed import is_plain_conv1d, is_plain_linear

BATCH = 16


@dataclass(frozen=True)
class OutputShift:
    """Constants to add to the outputs of layers, beside the rest of a patch.

    Attributes:
        shifts: base name of a layer's weight -> (outputs,) fp32.
        rest: the patch's other entries: of biases, norms, embeddings and packed experts, which no linear layer of their
            own reads, and of layers whose inputs cannot be measured (`measure_mean_inputs`).
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

    The mean is over all tokens of the texts as the head reads them; padding and label texts do not count.
    """
    head = open_base_head(inputs.pair, inputs.task, inputs.runtime)
    layers = find_linear(head.model, inputs.matrices)
    means = measure_mean_inputs(head, list(layers), inputs.task.train_examples())
    shifts = {}
    for name in means:
        indices = inputs.patch.mask[name]
        base = take(inputs.pair.base.read(name), torch.tensor(indices)).double()
        terms = (inputs.patch.values[name].double() - base) * means[name][inputs.columns(name, indices)]
        n_outputs = inputs.patch.mask.specs[name].numel // len(means[name])
        shift = torch.zeros(n_outputs, dtype=torch.float64)
        shifts[name] = shift.index_add_(0, torch.tensor(inputs.rows(name, indices)), terms).float()
    rest = tuple(name for name in inputs.patch.mask if name not in shifts)
    return OutputShift(shifts, keep_tensors(inputs, rest), inputs.patch.k)


def find_linear(model: torch.nn.Module, names: Sequence[str]) -> dict[str, torch.nn.Module]:
    """Find the layers W x, `Linear` and GPT-2's `Conv1D`, that alone read a weight.

    Returns:
        Base name -> module, for the names that have one. A weight that several modules share, such as that of a tied
        output layer, has none.
    """
    readers = find_readers(model)
    live = LiveTarget(model).require(names, "has its output shifted")
    found = {name: readers.get(id(weight), []) for name, weight in live.items()}
    return {name: of[0] for name, of in found.items() if len(of) == 1 and _is_product(of[0])}


def _is_product(module: torch.nn.Module) -> bool:
    return is_plain_linear(module) or is_plain_conv1d(module)


def measure_mean_inputs(
    head: Head, names: Sequence[str], examples: Sequence[Example], *, batch_size: int = BATCH
) -> dict[str, torch.Tensor]:
    """Measure the mean inputs of layers over the tokens of examples, as the head reads them.

    Args:
        head: over the model.
        names: of the layers' weights, as in the base.
        examples: those of which the head predicts nothing are left out.
        batch_size: examples at once, which no mean depends on beyond rounding.

    Returns:
        Name -> (inputs,) fp64, on the CPU. Layers are left out whose inputs cannot be told apart by token, or that are
        never called: Mamba's dt_proj, whose weight is read without a call.
    """
    sums, _ = sum_inputs(head, names, head.with_outputs(examples), batch_size=batch_size, as_task=True)
    return {name: of_layer.total / of_layer.n for name, of_layer in sums.items() if of_layer.n and not of_layer.missed}


def _add(shift: torch.Tensor, module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output + shift.to(output.device, output.dtype)
