"""What a patch keeps of the gain, on validation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from graft.evaluate.comparison import recovered_gain
from graft.evaluate.evaluation import evaluate_task
from graft.evaluate.kept_gain import KEPT, KeptGain, kept_by_refit, measure_kept
from graft.localize.localization import localize_skill
from graft.refit.refit import refit_skill
from graft.specs.localize import LocalizeSpec
from graft.specs.refit import RefitSpec
from graft.tasks.task import Task


@pytest.mark.parametrize("method", ["magnitude", "learned"])
def test_the_gain_is_that_of_the_graft_on_validation(base: Path, tuned: Path, task: Task, method: str) -> None:
    config = LocalizeSpec(method, scope="all", budget=10_000)
    patch = localize_skill(base, tuned, task, config)
    kept = measure_kept(base, tuned, task, patch, config)
    as_test = Task.load(task.folder / "task.yaml", (f"data.test={task.spec.data.validation}", "ood={}"))
    assert kept.n == len(task.validation_examples())
    assert kept.base == pytest.approx(evaluate_task(base, as_test)["accuracy"])
    assert kept.tuned == pytest.approx(evaluate_task(tuned, as_test)["accuracy"])
    assert kept.graft == pytest.approx(evaluate_task(base, as_test, patches=(patch,))["accuracy"])
    assert kept.gain == pytest.approx((kept.graft - kept.base) / (kept.tuned - kept.base))
    assert kept.chosen_by == ("learned" if method == "learned" else None)
    assert kept.to_json()["sentence"] == kept.sentence


def test_a_refit_says_itself_what_it_keeps(base: Path, tuned: Path, task: Task) -> None:
    patch = refit_skill(base, tuned, task, RefitSpec(budget=200, scope="all", epochs=2, lr=0.02))
    kept, measured = kept_by_refit(patch), measure_kept(base, tuned, task, patch)
    assert kept is not None
    assert (kept.n, kept.base, kept.tuned) == pytest.approx((measured.n, measured.base, measured.tuned))
    assert kept.graft == pytest.approx(measured.graft)
    assert kept.graft > kept.base  # the control: it is not the base that is compared with itself
    assert "the refit chose by these examples: an upper bound" in kept.sentence
    record = {key: value for key, value in patch.provenance.refit.items() if key != "n_validation"}
    older = dataclasses.replace(patch, provenance=dataclasses.replace(patch.provenance, refit=record))
    assert kept_by_refit(older) is None


def test_a_patch_that_keeps_little_is_told_of_a_density_above_its_own(base: Path, tuned: Path, task: Task) -> None:
    config = LocalizeSpec("random", scope="all", budget=3)
    kept = measure_kept(base, tuned, task, localize_skill(base, tuned, task, config), config)
    assert kept.gain is not None
    assert kept.gain < KEPT
    assert kept.suggested is not None
    assert kept.suggested * 20_576 > 3
    assert f"what would keep more: --density {kept.suggested:g}, --refit, or" in kept.sentence


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (
            KeptGain(768, 0.49, 0.865, 0.67, 0.47),
            "keeps 0.47 of the gain on validation (base 0.490, tuned 0.865, graft 0.670; n=768); what would keep more: "
            "--refit, or `graft train --localizable`",
        ),
        (
            KeptGain(1000, 0.5, 0.9, 0.86, 0.9, chosen_by="learned"),
            "keeps 0.90 of the gain on validation (base 0.500, tuned 0.900, graft 0.860; n=1,000; learned chose by "
            "these examples: an upper bound)",
        ),
        (
            KeptGain(100, 0.5, 0.9, 0.7, 0.5, "the refit", is_refit=True),
            "keeps 0.50 of the gain on validation (base 0.500, tuned 0.900, graft 0.700; n=100; the refit chose by "
            "these examples: an upper bound); what would keep more: a larger --density, or more texts "
            "like those of the task",
        ),
        (
            KeptGain(100, 0.7, 0.6, 0.65, 0.5),
            "there is no gain on validation to keep (base 0.700, tuned 0.600, graft 0.650; n=100)",
        ),
        (
            KeptGain(100, 0.7, 0.7, 0.7, None),
            "there is no gain on validation to keep (base 0.700, tuned 0.700, graft 0.700; n=100)",
        ),
    ],
)
def test_the_sentence(kept: KeptGain, said: str) -> None:
    assert kept.sentence == said


def test_a_gain_that_is_enough_but_for_rounding_asks_for_nothing_more() -> None:
    gain = recovered_gain(0.585, 0.5, 0.6)
    assert gain is not None
    assert gain < KEPT
    assert KeptGain(200, 0.5, 0.6, 0.585, gain).is_enough
