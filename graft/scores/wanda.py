"""Movement times the size of the inputs that it meets, by forward passes alone.

    score_ij = |delta_ij| * RMS(x_j),   x_j the input j of the layer on the task's texts, by the base

which is how far, by root mean square, the entry's movement alone moves its layer's output. Wanda (Sun et al. 2023,
arXiv 2306.11695) prunes the weights with the least |W_ij| * ||x_j||; here the movement stands for the weight.

Differences: the norm is divided by the root of the number of tokens, which is the same order within a layer; scores are
compared over the scope and not row by row; and every tensor has one: rows of embeddings meet one-hot inputs, whose
mean square is their share of the tokens, and biases and weights of norms meet 1, the bias exactly and the norm's
normalized input by construction. Texts are read as the head reads them, template and answers too: that is what the
layers meet where the skill is at work.

A layer of two inputs, the first ten times as large, RMS (10, 1): movements .1 and .9 score 1 and .9.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from graft.errors import ConfigError
from graft.scores.activations import InputSums, sum_inputs
from graft.scores.inputs import ScoreInput, ScoreTable
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.pair import CheckpointPair
from graft.tensors.transposed import has_inputs


def score_wanda(inputs: ScoreInput) -> ScoreTable:
    """Score every weight in scope by |delta| times the root mean square of its input.

    Raises:
        ConfigError: the inputs of a tensor cannot be measured, such as those of experts, convolutions and layers whose
            weight is read without a call of the layer, as Mamba's dt_proj.
    """
    sizes = measure_input_sizes(inputs, inputs.model.examples, inputs.model.head)
    return {name: partial(_weigh, inputs.pair, name, sizes[name]) for name in inputs.names}


def measure_input_sizes(inputs: ScoreInput, texts: Sequence[Example], head: Head | None) -> dict[str, torch.Tensor]:
    """Return root mean squares of inputs by tensor, fp32, in a shape that broadcasts over the tensor.

    They are those of the model as it is now, on some texts.

    Args:
        inputs: of the score.
        texts: what is read.
        head: over the model, as which they are read; None: the texts alone.

    Raises:
        ConfigError: the inputs of a tensor cannot be measured.
    """
    path = inputs.model
    matrices = [name for name in inputs.names if has_inputs(name, inputs.pair.base.spec(name).shape)]
    read = texts if head is None else head.with_outputs(texts)
    sums, _ = sum_inputs(head or path.head, matrices, read, batch_size=path.batch_size, as_task=head is not None)
    sizes = dict.fromkeys(inputs.names, torch.ones(()))
    return sizes | {name: _size(name, inputs.pair.base.spec(name).shape, sums.get(name)) for name in matrices}


def _size(name: str, shape: tuple[int, ...], sums: InputSums | None) -> torch.Tensor:
    """Return the root mean squares of a matrix's inputs, along its axis."""
    if sums is None or sums.axis is None or sums.missed or not sums.n or len(shape) != 2:
        raise ConfigError(
            f"tensor {name!r}: the sizes of its inputs cannot be measured, token by token; choose a scope without it"
        )
    size = sums.mean_square.sqrt().float()
    return size if size.ndim == 0 else size.unsqueeze(1 - sums.axis)


def weigh_by_inputs(values: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Return |values| * sizes, flat; `sizes` broadcasts over `values`."""
    return (values.abs() * sizes).flatten()


def _weigh(pair: CheckpointPair, name: str, sizes: torch.Tensor) -> torch.Tensor:
    """Return (n,) fp32 |delta| * RMS(x) of one tensor."""
    delta, _ = pair.read_delta(name)
    return weigh_by_inputs(delta.view(pair.base.spec(name).shape), sizes)
