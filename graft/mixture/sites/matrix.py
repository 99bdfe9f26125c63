"""Matrix products: linear layers and transformers' Conv1D, by a skill's entries or, exactly, by its touched rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Protocol

import torch

from graft.mixture.entries import Owned
from graft.mixture.flat_entries import FlatEntries
from graft.mixture.products import Addition, Delta, EntryProduct, Product, choose_product
from graft.mixture.row_entries import PackedEntries, RowEntries
from graft.mixture.rows import Call, Run
from graft.mixture.sites.site import Arguments, Site
from graft.mixture.touched_rows import TouchedRows


@dataclass(frozen=True, eq=False)
class MatrixContent:
    """A skill's entries of one matrix and its bias.

    Attributes:
        entries: as the patch has them.
        delta: as outputs, inputs and differences.
        product: how their share in a batch of tokens is computed.
        addition: how it is added.
        packed: the entries, to be laid beside those of other skills.
    """

    entries: Owned
    delta: Delta
    product: Product
    addition: Addition
    packed: PackedEntries

    @property
    def by_entry(self) -> bool:
        """Whether its entries are computed one by one, beside those of other skills."""
        return isinstance(self.product, EntryProduct)

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Add the skill's share in outputs of rows that all carry it, in place."""
        self.addition.add(self.product.share(inputs), outputs)


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
        return MatrixContent(
            entries, delta, product, Addition(product.rows, delta.bias_rows, delta.bias_values), PackedEntries(delta)
        )

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
        inputs = self.by_row(self.inputs(arguments))  # (rows, tokens, inputs)
        result: torch.Tensor = output.contiguous()
        outputs = self.by_row(result)
        if self.call.exact:
            for run in runs:
                touched = self.cached(("touched", run.skill), partial(self._touch, self.contents[run.skill]))
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
        for by_entry, group in groupby(runs, lambda run: n_tokens == 1 or self.contents[run.skill].by_entry):
            for stretch in consecutive(group) if by_entry else ([run] for run in group):
                contents = [self.contents[run.skill] for run in stretch for _ in range(run.start, run.stop)]
                rows = slice(stretch[0].start, stretch[-1].stop)
                parts.append((rows, _lay_out(contents, n_tokens) if by_entry else contents[0]))
        return parts

    def _touch(self, content: MatrixContent) -> TouchedRows:
        bias = self.module._parameters["bias"]
        weight = self.weight.T if self._transposed else self.weight
        return TouchedRows(content.delta, content.entries, weight, None if bias is None else bias.detach())


def _lay_out(contents: Sequence[MatrixContent], n_tokens: int) -> RowAddition:
    if n_tokens == 1:
        return FlatEntries([content.delta for content in contents])
    return RowEntries([content.packed for content in contents])


def consecutive(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """Yield runs between which no row lies, together."""
    stretch: list[Run] = []
    for run in runs:
        if stretch and stretch[-1].stop != run.start:
            yield stretch
            stretch = []
        stretch.append(run)
    yield stretch


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
