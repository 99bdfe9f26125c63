"""The outputs that a skill touches, computed anew from the skill's own weights, with the bits of the grafted model."""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from graft.mixture.entries import Owned
from graft.mixture.products import Delta
from graft.mixture.rows import Run

# as many outputs, and as many tokens, as make a product sum in the order of one of any size
OUTPUTS = 16
TOKENS = 4


class TouchedRows:
    """What gives the touched outputs of a skill anew, with the bits that the whole product of the whole batch has.

    A library of products sums in another order where outputs or tokens are few. Padded as here, the sums were the same
    bit for bit at every size tried (MKL and oneDNN on a CPU, fp32 and bf16).

    Args:
        delta, entries: of the skill.
        weight: (outputs, inputs), the base's.
        bias: (outputs,), the base's; None where the layer has none.

    Attributes:
        rows: (n,) int64: the outputs.
        weight: (n, inputs): the skill's weights of these.
        bias: (n,): its bias; None where the layer has none.
    """

    def __init__(self, delta: Delta, entries: Owned, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.rows = delta.touched
        padded = torch.cat([self.rows, self.rows[:1].expand(-self.rows.numel() % OUTPUTS)])
        self.weight = weight.index_select(0, padded)
        if "weight" in entries:
            self.weight[delta.places, delta.columns] = entries["weight"].values
        self.bias = None if bias is None else bias.index_select(0, padded)
        if self.bias is not None and "bias" in entries:
            self.bias[delta.bias_places] = entries["bias"].values

    def product(self, inputs: torch.Tensor, run: Run) -> torch.Tensor:
        """Return (own rows, tokens, n): a run's touched outputs, from the (rows, tokens, m) inputs of all rows."""
        own, n = inputs[run.rows], self.rows.numel()
        tokens, n_all = own.flatten(0, 1), inputs.shape[0] * inputs.shape[1]
        if len(tokens) >= TOKENS:
            products = linear(tokens, self.weight, self.bias)
        elif n_all < TOKENS:
            whole = linear(inputs.flatten(0, 1), self.weight, self.bias)
            products = whole.view(*inputs.shape[:2], -1)[run.rows].flatten(0, 1)
        else:
            products = linear(tokens.repeat(TOKENS, 1), self.weight, self.bias)[: len(tokens)]
        return products[:, :n].view(*own.shape[:2], n)
