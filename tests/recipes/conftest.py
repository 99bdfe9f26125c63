"""Recipes resample as always, but forty times: their tests are about what is measured, not how far it could be off."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from graft.evaluate import comparison, evaluation
from graft.evaluate.bootstrap import paired_differences
from graft.evaluate.detection import detect_ood
from graft.evaluate.report import measure
from graft.recipes.single import seed

DRAWS = 40


@pytest.fixture(autouse=True, scope="module")
def few_draws() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluation, "measure", partial(measure, draws=DRAWS))
        patched.setattr(comparison, "paired_differences", partial(paired_differences, draws=DRAWS))
        patched.setattr(seed, "detect_ood", partial(detect_ood, draws=DRAWS))
        yield
