"""Refit: patches of few entries whose values are fitted to the tuned model's predictions on texts (`graft.refit`).

Beside the method itself stand its controls: other supports of the same size, labels in place of the tuned model's
predictions or beside them, fewer texts, texts of another source, and the same again with other draws. By the divergence
on validation texts it is chosen which epoch is kept, so that no label is read but where labels are fitted to.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from graft.errors import BudgetError
from graft.extraction.extracted import Extracted, extract_patch
from graft.extraction.inputs import ExtractionInput
from graft.patch.skill_patch import Patch
from graft.tasks.task import Task

DENSITY = 1e-4  # of the methods whose size is another
MOST_EPOCHS = 24
OF_SHOTS: dict[str, Any] = {"epochs": 8, "select": "nll"}  # of labels there are some hundreds, of texts thousands


def fit_values(
    inputs: ExtractionInput, given: Patch | None = None, *, source: Task | None = None, **changes: Any
) -> Extracted:
    """Fit the values of a given patch's entries, or of a support; `changes` replace keys of the refit block.

    `source` is a task whose training texts are fitted to, in place of the task's own.
    """
    settings: dict[str, Any] = {"select": "kl", "seed": inputs.seed, **changes}
    config = dataclasses.replace(inputs.config.refit, **settings)
    return extract_patch(inputs.refitter(config, source).refit(config, given))


def extract_refit(inputs: ExtractionInput, density: float, **changes: Any) -> Extracted:
    """Fit the values of a support at a density; `changes` are those of `fit_values`."""
    return fit_values(inputs, density=density, budget=None, **changes)


def extract_from_others(inputs: ExtractionInput, density: float) -> Extracted:
    """Fit to texts of another source, which the recipe names."""
    return extract_refit(inputs, density, source=inputs.others)


extract_by_random = partial(extract_refit, support="random")
extract_by_magnitude = partial(extract_refit, support="magnitude")
extract_by_attribution = partial(extract_refit, support="attribution")
extract_with_labels = partial(extract_refit, labels=0.5, **OF_SHOTS)
extract_sparse_sft = partial(extract_refit, labels=1.0, **OF_SHOTS)
# LT-SFT (Ansell et al. 2022, arXiv 2110.07560): the largest movements, their values trained anew on the labels
extract_lt_sft = partial(extract_refit, support="magnitude", labels=1.0, **OF_SHOTS)


def extract_from_texts(inputs: ExtractionInput, n: float) -> Extracted:
    """Fit to so many texts, with as many steps as a refit to the settings' own number of texts takes.

    Raises:
        BudgetError: the training split has fewer.
    """
    own, n_all = inputs.config.refit, len(inputs.task.training_texts())
    if n > n_all:
        raise BudgetError(f"{n:,.0f} texts to fit to, and the training split has {n_all:,}")
    epochs = max(own.epochs, round(own.epochs * min(own.texts, n_all) / n))
    return extract_refit(inputs, DENSITY, texts=int(n), epochs=min(epochs, MOST_EPOCHS))


def extract_again(inputs: ExtractionInput, number: float) -> Extracted:
    """Fit with other draws: of the texts where there are more, and of their order."""
    return extract_refit(inputs, DENSITY, seed=inputs.seed + 1000 * int(number))
