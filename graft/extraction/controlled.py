"""Controls of the cut patch, as files: other rows or columns, or trained values, at the same size."""

from __future__ import annotations

from functools import partial

from graft.controls.application import make_control
from graft.controls.inputs import ControlInput
from graft.extraction.cut import extract_by_attribution
from graft.extraction.extracted import Extracted, extract_patch
from graft.extraction.inputs import ExtractionInput
from graft.patch.skill_patch import Patch


def extract_control(inputs: ExtractionInput, density: float, name: str) -> Extracted:
    """Make a control of the patch of the entries with the largest attribution at a density."""
    cut = extract_by_attribution(inputs, density).patch
    assert cut is not None
    made = make_control(ControlInput(name, cut, inputs.pair, inputs.task, inputs.seed, inputs.runtime))
    assert isinstance(made, Patch)
    return extract_patch(made)


extract_vectors = partial(extract_control, name="vectors_only")
extract_random_entries = partial(extract_control, name="random_in_tensors")
extract_random_columns = partial(extract_control, name="random_columns")
extract_random_rows = partial(extract_control, name="random_rows")
extract_whole_columns = partial(extract_control, name="whole_columns")
extract_sparta = partial(extract_control, name="sparta")
