"""Activations of the dimensions of the residual stream on texts, as the matrices that read it get them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from graft.scores.activations import InputSums, sum_inputs
from graft.tasks.examples import Example
from graft.tasks.head import Head

LARGEST = 8  # dimensions that are told beside those asked for


@dataclass(frozen=True)
class DimensionActivation:
    """Activation of one dimension, over the matrices that read it.

    Attributes:
        dimension: of the residual stream.
        mean, spread: the mean over tokens and its standard deviation, each averaged over the matrices.
        rms: root mean square over tokens, averaged likewise.
        times_median: rms over that of the median dimension of the same matrix; the median over the matrices.
        position: place among all dimensions by rms, 1 for the largest; the (lower) median over the matrices.
    """

    dimension: int
    mean: float
    spread: float
    rms: float
    times_median: float
    position: int


@dataclass(frozen=True)
class Activations:
    """Activation of some dimensions on texts.

    Attributes:
        n_texts, n_tokens: how many were read.
        n_matrices: how many inputs were measured.
        dimensions: in the order asked for.
        largest: the dimensions with the largest times_median, largest first, whether asked for or not.
        not_measured: matrices whose inputs cannot be told apart by token, such as experts'.
    """

    n_texts: int
    n_tokens: int
    n_matrices: int
    dimensions: tuple[DimensionActivation, ...]
    largest: tuple[DimensionActivation, ...] = ()
    not_measured: tuple[str, ...] = ()


def measure_activations(
    head: Head, readers: Sequence[str], dimensions: Sequence[int], examples: Sequence[Example], *, batch_size: int
) -> Activations:
    """Measure some dimensions of the inputs of matrices on texts as the head reads them, in its template.

    Nothing of a text but its part of the sums is kept.

    Args:
        head: over the base.
        readers: the base's names of weights that read the residual stream.
        dimensions: of the stream.
        examples: that are read; those of which the head predicts nothing are left out.
        batch_size: examples at once, which no result depends on beyond rounding.
    """
    read = head.with_outputs(examples)
    sums, n_tokens = sum_inputs(head, readers, read, batch_size=batch_size, as_task=True)
    # an expert to which a short text goes whole is seen in that batch alone, and by other batches in none
    measured = {name: of_reader for name, of_reader in sums.items() if of_reader.n and not of_reader.missed}
    asked, largest = (
        tuple(_describe(i, measured) for i in chosen) if measured else ()
        for chosen in (dimensions, _find_largest(measured))
    )
    left_out = tuple(name for name in readers if name not in measured)
    return Activations(len(read), n_tokens, len(measured), asked, largest, left_out)


def _moments(measured: Mapping[str, InputSums]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return means and mean squares, (matrices, width) fp64 each."""
    means, squares = ([getattr(sums, key) / sums.n for sums in measured.values()] for key in ("total", "squares"))
    return torch.stack(means), torch.stack(squares)


def _ratios(squares: torch.Tensor) -> torch.Tensor:
    """Return (width,) root mean squares over that of each matrix's median dimension; the median over the matrices."""
    sizes = squares.sqrt()
    return (sizes / sizes.quantile(0.5, dim=1, keepdim=True).clamp(min=1e-300)).quantile(0.5, dim=0)


def _find_largest(measured: Mapping[str, InputSums]) -> list[int]:
    return _ratios(_moments(measured)[1]).argsort(descending=True, stable=True)[:LARGEST].tolist() if measured else []


def _describe(dimension: int, measured: Mapping[str, InputSums]) -> DimensionActivation:
    means, squares = _moments(measured)
    spreads, sizes = (squares - means.square()).clamp(min=0).sqrt(), squares.sqrt()
    own = sizes[:, dimension]
    return DimensionActivation(
        dimension,
        mean=float(means[:, dimension].mean()),
        spread=float(spreads[:, dimension].mean()),
        rms=float(own.mean()),
        times_median=float(_ratios(squares)[dimension]),
        position=1 + int((sizes > own.unsqueeze(1)).sum(1).median()),
    )
