"""Matrix products: linear layers and transformers' Conv1D, by a skill's entries or, exactly, by its touched rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear

from graft.mixture.entries import Owned
from graft.mixture.products import Addition, Delta, Product, choose_product, number
from graft.mixture.rows import Call, Run
from graft.mixture.sites.site import Arguments, Site


@dataclass(frozen=True, eq=False)
class MatrixContent:
    """A skill's entries of one matrix and its bias.

    Attributes:
        entries: as the patch has them.
        delta: as outputs, inputs and differences.
        product: how their share in a batch of tokens is computed.
        addition: how it is added.
    """

    entries: Owned
    delta: Delta
    product: Product
    addition: Addition


class MatrixSite(Site[MatrixContent]):
    """A linear layer, whose weight is (outputs, inputs), or a Conv1D, whose weight is (inputs, outputs)."""

    def __init__(self, name: str, module: torch.nn.Module, call: Call, *, transposed: bool = False) -> None:
        super().__init__(name, module, call)
        self._transposed = transposed

    def prepare(self, entries: Owned) -> MatrixContent:
        """Return outputs, inputs and differences, and the cheapest way to add them."""
        delta = self.delta_of(entries)
        product = choose_product(delta)
        return MatrixContent(entries, delta, product, Addition(product.rows, delta.bias_rows, delta.bias_values))

    def delta_of(self, entries: Owned) -> Delta:
        """Return the entries as outputs, inputs and differences."""
        shape = self.weight.shape
        rows, columns, values = split_entries(entries, self.weight)
        if self._transposed:
            rows, columns, shape = columns, rows, shape[::-1]
        return Delta(rows, columns, values, *bias_of(entries, values), (int(shape[0]), int(shape[1])))

    def inputs(self, arguments: Arguments) -> torch.Tensor:
        """Return what the matrix is multiplied with."""
        args, kwargs = arguments
        inputs: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
        return inputs

    def change(self, arguments: Arguments, output: Any, runs: tuple[Run, ...]) -> torch.Tensor:
        """Add to the rows of each run what its skill adds to the base's product."""
        inputs = self.by_row(self.inputs(arguments))
        result: torch.Tensor = output.contiguous()
        outputs = self.by_row(result)
        if self.call.exact:
            for run in runs:
                self._recompute(run, inputs[run.rows], outputs[run.rows])
        elif outputs.shape[1] == 1:
            flat = self.cached("flat", lambda: Flat.of(self.contents, runs, inputs.shape[-1], outputs.shape[-1]))
            flat.addition.add(inputs.flatten()[flat.inputs] * flat.values, outputs.view(-1))
        else:
            for run in runs:
                content = self.contents[run.skill]
                content.addition.add(content.product.share(inputs[run.rows]), outputs[run.rows])
        return result

    def _recompute(self, run: Run, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        content = self.contents[run.skill]
        touched = self.cached(("touched", run.skill), lambda: self._touch(content))
        outputs.index_copy_(-1, touched.rows, linear(inputs, touched.weight, touched.bias))

    def _touch(self, content: MatrixContent) -> TouchedRows:
        bias = self.module._parameters["bias"]
        weight = self.weight.T if self._transposed else self.weight
        return TouchedRows(content, weight, None if bias is None else bias.detach())


class Flat:
    """The shares of all rows of a batch of single tokens, laid end to end.

    Args:
        inputs: (n,) int64 places among the inputs of all rows.
        values: (n,) fp32.
        addition: to the outputs of all rows.
    """

    def __init__(self, inputs: torch.Tensor, values: torch.Tensor, addition: Addition) -> None:
        self.inputs, self.values, self.addition = inputs, values, addition

    @classmethod
    def of(cls, contents: dict[Any, MatrixContent], runs: tuple[Run, ...], n_inputs: int, n_outputs: int) -> Flat:
        """Lay out the entries of each row's skill."""
        deltas = [(row, contents[run.skill].delta) for run in runs for row in range(run.start, run.stop)]
        addition = Addition(
            torch.cat([row * n_outputs + delta.rows for row, delta in deltas]),
            torch.cat([row * n_outputs + delta.bias_rows for row, delta in deltas]),
            torch.cat([delta.bias_values for _, delta in deltas]),
        )
        inputs = torch.cat([row * n_inputs + delta.columns for row, delta in deltas])
        return cls(inputs, torch.cat([delta.values for _, delta in deltas]), addition)


class TouchedRows:
    """What gives the touched outputs of a skill anew.

    Args:
        content: of the skill.
        weight: (outputs, inputs), the base's.
        bias: (outputs,), the base's; None where the layer has none.

    Attributes:
        rows: (n,) int64: the outputs.
        weight: (n, inputs): the skill's weights of these.
        bias: (n,): its bias; None where the layer has none.
    """

    def __init__(self, content: MatrixContent, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        delta, entries = content.delta, content.entries
        self.rows, places = number(torch.cat([delta.rows, delta.bias_rows]))
        k = delta.rows.numel()
        self.weight = weight.index_select(0, self.rows)
        if "weight" in entries:
            self.weight[places[:k], delta.columns] = entries["weight"].values
        self.bias = None if bias is None else bias.index_select(0, self.rows)
        if self.bias is not None and "bias" in entries:
            self.bias[places[k:]] = entries["bias"].values


def split_entries(entries: Owned, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return row, column and difference of each entry of a weight (n, m); a vector's lie on the diagonal."""
    if "weight" not in entries:
        none = torch.empty(0, dtype=torch.int64, device=weight.device)
        return none, none, none.to(torch.promote_types(weight.dtype, torch.float32))
    indices = entries["weight"].indices
    rows, columns = (indices, indices) if weight.dim() == 1 else (indices // weight.shape[1], indices % weight.shape[1])
    return rows, columns, entries["weight"].delta


def bias_of(entries: Owned, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return row and difference of each entry of a bias, on the device and in the dtype of other differences."""
    if "bias" in entries:
        return entries["bias"].indices, entries["bias"].delta
    return torch.empty(0, dtype=torch.int64, device=values.device), values[:0]
