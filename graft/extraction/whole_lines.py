"""Whole columns and rows of matrices, each with all of its tuned weights, or with values that are fitted.

SGD gathers a skill in the columns of outlier dimensions (arXiv 2310.17715); here a line counts by the sum of its
attributions (`graft.localize.lines`), the best ones are kept whole, and the file names each once. Beside them stands
the rank: entries one by one, within as many lines of each matrix as a LoRA of that rank has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from graft.extraction.extracted import Extracted, extract_patch
from graft.extraction.inputs import ExtractionInput
from graft.extraction.refitted import fit_values
from graft.files.location import locate
from graft.localize.budget import allocate, resolve_budget
from graft.localize.changes import Changes
from graft.localize.lines import choose_lines
from graft.localize.localization import count_of_lines, describe_origin
from graft.localize.rank_limit import select_within_rank
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch, cut_patch
from graft.specs.localize import LocalizeSpec, Structure
from graft.specs.reader import to_plain
from graft.tensors.scope import Scope
from graft.tensors.transposed import is_matrix

RANK = 8  # of the LoRA that the entries of "rank" fit, whatever their number
Cut = Callable[[ExtractionInput, float], Patch]


def cut_lines(inputs: ExtractionInput, n_lines: float, *, structure: Structure) -> Patch:
    """Cut the lines with the largest total attribution out of all matrices in scope."""
    config = dataclasses.replace(inputs.attribution_at(), budget=None, structure=structure, lines=int(n_lines))
    return _cut(inputs, config, choose_lines(inputs.attribution, list(_matrices(inputs, config).counts), config))


def cut_within_rank(inputs: ExtractionInput, density: float) -> Patch:
    """Cut the entries of matrices with the largest attribution that fit a LoRA of rank `RANK`."""
    config = dataclasses.replace(inputs.attribution_at(density), max_rank=RANK)
    counts = _matrices(inputs, config).counts
    k = resolve_budget(inputs.pair.base.n_parameters, density, None)
    return _cut(inputs, config, select_within_rank(inputs.attribution, allocate(k, counts, "global"), RANK, counts))


def extract_cut(inputs: ExtractionInput, size: float, *, cut: Cut) -> Extracted:
    """Return a patch as it was cut."""
    return extract_patch(cut(inputs, size))


def fit_cut(inputs: ExtractionInput, size: float, *, cut: Cut) -> Extracted:
    """Fit the values of a patch's entries to the tuned model's predictions."""
    return fit_values(inputs, cut(inputs, size))


_columns, _rows = (partial(cut_lines, structure=structure) for structure in ("columns", "rows"))
extract_columns, refit_columns = partial(extract_cut, cut=_columns), partial(fit_cut, cut=_columns)
extract_rows, refit_rows = partial(extract_cut, cut=_rows), partial(fit_cut, cut=_rows)
extract_rank, refit_rank = partial(extract_cut, cut=cut_within_rank), partial(fit_cut, cut=cut_within_rank)


def _matrices(inputs: ExtractionInput, config: LocalizeSpec) -> Changes:
    names = inputs.pair.names_in(Scope(config.scope))
    return Changes(inputs.pair, [name for name in names if is_matrix(name, inputs.pair.base.spec(name).shape)])


def _cut(inputs: ExtractionInput, config: LocalizeSpec, mask: Mask) -> Patch:
    method = to_plain(config) | count_of_lines(inputs.pair.base, mask, config)
    origin = describe_origin(locate(inputs.base), inputs.pair, Scope(config.scope), method, inputs.task)
    return cut_patch(inputs.pair, mask, origin)
