"""What attribution in one model's memory gives away: its candidates and its grafts, against scores of every weight.

For each way of fine-tuning and seed: how many entries of the exact mask are among the candidates, how many of the exact
mask are in the lean one, and both grafts' accuracy on test. Needs the datasets beside the checkout.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import torch

from graft.evaluate.correctness import accuracy
from graft.patch.live import apply_patch
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.recipes.run import load_experiment
from graft.recipes.seed_run import SeedContext
from graft.recipes.single.experiment import SingleExperiment
from graft.recipes.single.seed_run import SingleRun
from graft.scores.table import CandidateScores
from graft.tasks.head import Head
from graft.train.fine_tuning import train_task

RECIPES = {"SGD with a pull": "recipes/trec.yaml", "AdamW": "recipes/trec_adamw.yaml"}


def measure() -> list[dict[str, object]]:
    """One row per way of tuning, seed and method."""
    torch.set_num_threads(1)
    rows = []
    for tuning, path in RECIPES.items():
        experiment = load_experiment(Path(path))
        assert isinstance(experiment, SingleExperiment)
        for seed in experiment.recipe.seeds:
            with tempfile.TemporaryDirectory() as name:
                bench = experiment.at(SeedContext(seed, Path(name), Path(name)))
                train_task(experiment.recipe.base, bench.task, bench.tuned)
                rows += [{"tuned by": tuning, "seed": seed, **row} for row in _compare(bench)]
    return rows


def _compare(bench: SingleRun) -> list[dict[str, object]]:
    lean = dataclasses.replace(bench, tables={})
    head, rows = bench.open(bench.recipe.base), []
    ends = {"base": accuracy(bench.predict_test(head).outcomes())}
    ends["tuned"] = accuracy(bench.predict_test(bench.open(bench.tuned)).outcomes())
    for method in ("attribution", "learned"):
        patches = {
            "exact": bench.localize(method, exact_scores=True),
            "lean": lean.localize(method, exact_scores=False),
        }
        found = [scores for scores in lean.tables.values() if isinstance(scores, CandidateScores)]
        candidates = found[0].select(((tuple(bench.names()), len(found[0].values)),))
        accuracies = {kind: _accuracy(bench, head, patch) for kind, patch in patches.items()}
        exact = patches["exact"].mask
        rows.append(
            {
                "method": method,
                "k": len(exact),
                "candidates": len(candidates),
                "exact mask among them": _share(exact, candidates),
                "exact mask in the lean": _share(exact, patches["lean"].mask),
                **{name: f"{value:.4f}" for name, value in {**ends, **accuracies}.items()},
            }
        )
    return rows


def _accuracy(bench: SingleRun, head: Head, patch: Patch) -> float:
    with apply_patch(head.model, patch):
        return float(accuracy(bench.predict_test(head).outcomes()))


def _share(of: Mask, within: Mask) -> str:
    return f"{len(of & within) / len(of):.4f}"
