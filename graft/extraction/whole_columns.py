"""Columns: the input dimensions through which a fine-tune acts, each with all of its tuned weights.

SGD gathers a skill in the columns of outlier dimensions (arXiv 2310.17715); here a column of any matrix counts by the
sum of its attributions, and the best ones are kept whole.
"""

from __future__ import annotations

import numpy as np
import torch

from graft.extraction.extracted import Extracted, extract_patch
from graft.extraction.inputs import ExtractionInput
from graft.files.location import locate
from graft.localize.localization import describe_origin
from graft.patch.mask import Mask
from graft.patch.skill_patch import cut_patch
from graft.tensors.scope import Scope


def extract_columns(inputs: ExtractionInput, n_columns: float) -> Extracted:
    """Cut the columns with the largest total attribution out of all matrices in scope."""
    pair, table = inputs.pair, inputs.attribution.table
    shapes = {name: pair.base.spec(name).shape for name in table if len(pair.base.spec(name).shape) == 2}
    totals = [table[name]().view(shape).sum(0) for name, shape in shapes.items()]
    n = min(int(n_columns), sum(map(len, totals)))
    best = torch.cat(totals).argsort(descending=True, stable=True)[:n].numpy()
    indices, start = {}, 0
    for name, (rows, columns) in shapes.items():
        mine = best[(best >= start) & (best < start + columns)] - start
        indices[name] = (np.arange(rows)[:, None] * columns + mine).ravel()
        start += columns
    mask = Mask.of({name: pair.base.spec(name) for name in shapes}, indices)
    scope = Scope(inputs.config.localize.scope)
    origin = describe_origin(locate(inputs.base), pair, scope, {"method": "columns", "columns": n}, inputs.task)
    return extract_patch(cut_patch(pair, mask, origin))
