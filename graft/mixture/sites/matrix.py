"""Matrix products: linear layers and transformers' Conv1D, by a skill's entries or, exactly, by its touched rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import torch

from graft.mixture.delta import Delta, Moved
from graft.mixture.entries import Owned
from graft.mixture.flat_entries import FlatEntries
from graft.mixture.products import Addition, Product, choose_product
from graft.mixture.row_entries import RowEntries
from graft.mixture.rows import Call, Run
from graft.mixture.sites.site import Arguments, Site
from graft.mixture.touched_rows import TouchedRows


class OneSkill:
    """What a skill adds to outputs of rows that all carry it, where that is cheaper than entry by entry.

    Args:
        product: gives its share.
        bias: its entries of the bias.
    """

    def __init__(self, product: Product, bias: Moved) -> None:
        self._product, self._addition = product, Addition(product.rows, bias.rows, bias.values)

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Add it, in place."""
        self._addition.add(self._product.share(inputs), outputs)


@dataclass(frozen=True, eq=False)
class MatrixContent:
    """A skill's entries of one matrix and its bias.

    Attributes:
        delta: the entries.
        whole: adds what they give together; None where it is done entry by entry, beside those of other skills.
    """

    delta: Delta
    whole: OneSkill | None


class RowAddition(Protocol):
    """What is added to (rows, tokens, n) outputs for (rows, tokens, m) inputs, in place."""

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Add it."""
        ...


class MatrixSite(Site[MatrixContent]):
    """A linear layer, whose weight is (outputs, inputs), or a Conv1D, whose weight is (inputs, outputs)."""

    def __init__(self, name: str, module: torch.nn.Module, call: Call, *, transposed: bool = False) -> None:
        super().__init__(name, module, call)
        self._transposed = transposed

    def prepare(self, entries: Owned) -> MatrixContent:
        """Return outputs, inputs and differences, and the cheapest way to add them."""
        delta = self.delta_of(entries)
        product = choose_product(delta)
        return MatrixContent(delta, None if product is None else OneSkill(product, delta.bias))

    def delta_of(self, entries: Owned) -> Delta:
        """Return the entries as outputs, inputs and differences."""
        shape = self.weight.shape
        matrix, bias = split_entries(entries, self.weight)
        if self._transposed:
            matrix, shape = replace(matrix, rows=matrix.columns, columns=matrix.rows), shape[::-1]
        return Delta(matrix, bias, (int(shape[0]), int(shape[1])))

    def inputs(self, arguments: Arguments) -> torch.Tensor:
        """Return what the matrix is multiplied with."""
        args, kwargs = arguments
        inputs: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
        return inputs

    def change(self, arguments: Arguments, output: Any, runs: tuple[Run, ...]) -> torch.Tensor:
        """Add to the rows of each run what its skill adds to the base's product."""
        inputs = self.by_row(self.inputs(arguments))  # (rows, tokens, inputs)
        result: torch.Tensor = output.contiguous()
        outputs = self.by_row(result, write=True)
        if self.call.exact:
            for run in runs:
                touched = self._touch(self.contents[run.skill])  # not kept: rows of weights, of many skills gigabytes
                outputs[run.rows].index_copy_(-1, touched.rows, touched.product(inputs, run))
            return result
        for rows, addition in self.cached(
            ("parts", outputs.shape[1] == 1), partial(self._parts, runs, outputs.shape[1])
        ):
            addition.add(inputs[rows], outputs[rows])
        return result

    def _parts(self, runs: tuple[Run, ...], n_tokens: int) -> list[tuple[slice, RowAddition]]:
        """Part the rows: stretches that are computed at once, and runs of one skill that are cheaper in another way."""
        parts: list[tuple[slice, RowAddition]] = []
        for by_entry, group in groupby(runs, lambda run: n_tokens == 1 or self.contents[run.skill].whole is None):
            for stretch in consecutive(group) if by_entry else ([run] for run in group):
                rows = slice(stretch[0].start, stretch[-1].stop)
                whole = self.contents[stretch[0].skill].whole
                if by_entry or whole is None:
                    deltas = [self.contents[run.skill].delta for run in stretch for _ in range(run.start, run.stop)]
                    parts.append((rows, FlatEntries(deltas) if n_tokens == 1 else RowEntries(deltas)))
                else:
                    parts.append((rows, whole))
        return parts

    def _touch(self, content: MatrixContent) -> TouchedRows:
        bias = self.module._parameters["bias"]
        weight = self.weight.T if self._transposed else self.weight
        return TouchedRows(content.delta, weight, None if bias is None else bias.detach())


def consecutive(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """Yield runs between which no row lies, together."""
    stretch: list[Run] = []
    for run in runs:
        if stretch and stretch[-1].stop != run.start:
            yield stretch
            stretch = []
        stretch.append(run)
    yield stretch


def split_entries(entries: Owned, weight: torch.Tensor) -> tuple[Moved, Moved]:
    """Return the entries of a weight (n, m), those of a vector on the diagonal, and of its bias."""
    matrix = bias = Moved.none(weight)
    if (found := entries.get("weight")) is not None:
        places, width = found.indices, weight.shape[-1]
        rows, columns = (places, places) if weight.dim() == 1 else (places // width, places % width)
        matrix = Moved(rows, columns, found.delta, found.values)
    if (found := entries.get("bias")) is not None:
        bias = Moved(found.indices, found.indices, found.delta, found.values)
    return matrix, bias
