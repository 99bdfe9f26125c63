"""Run folders as `graft run` writes them, made up: every section has data, and which model is how good is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.evaluate.calibration import reliability_bins
from graft.evaluate.outcomes import Outcomes
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.writing import save_patch
from graft.patch.mask import Mask
from graft.patch.provenance import BaseIdentity, Provenance
from graft.patch.skill_patch import Patch
from graft.results.fields import to_json
from graft.results.models import guess_model

# model -> accuracy, and how much surer than right it is
MODELS = {
    "base": (0.62, 0.02),
    "tuned": (0.86, 0.11),
    "graft (learned)": (0.84, 0.01),
    "graft (attribution)": (0.835, 0.02),
    "graft (magnitude)": (0.76, 0.02),
    "graft (random)": (0.62, 0.02),
    "tuned, temperature-scaled": (0.86, 0.02),
    "interpolation": (0.84, 0.05),
    "early-stopped": (0.835, 0.06),
    "random, larger": (0.83, 0.07),
    "tuned without (learned)": (0.66, 0.04),
    "tuned without (random)": (0.86, 0.11),
}
SETTINGS = {
    "interpolation": ("alpha", 0.4),
    "early-stopped": ("steps", 120),
    "random, larger": ("density", 0.03),
    "tuned, temperature-scaled": ("temperature", 1.7),
}
STRENGTH = {"learned": 1.0, "attribution": 0.95, "magnitude": 0.7, "random": 0.05}


def write_run(
    folder: Path, name: str = "toy", *, seeds: int = 3, method: str = "learned", n: int = 160, patch: bool = True
) -> Path:
    """A finished run with all that a report can show; its path."""
    folder.mkdir(parents=True)
    results: dict[str, Any] = {
        "schema": 1,
        "kind": "single",
        "recipe": {
            "name": name,
            "base": "embedded:toy",
            "localize": {"method": method, "density": 0.01},
            "seeds": list(range(seeds)),
            "hardware": "2 CPU cores",
        },
        "summary": {},
        "models": to_json({key: guess_model(key) for key in MODELS}),
        "seeds": [made_up_seed(seed, f"graft ({method})", n, name) for seed in range(seeds)],
        "missed": [],
    }
    write_results(folder, results)
    if patch:
        (folder / "patches").mkdir()
        save_patch(made_up_patch(), folder / "patches" / f"{method}-seed-0.safetensors")
    return folder


def write_results(folder: Path, results: Any) -> None:
    (folder / "results.json").write_text(json.dumps(results))


def read_results(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def made_up_seed(seed: int, main: str, n: int, name: str) -> dict[str, Any]:
    draws = np.random.default_rng([seed, *name.encode()])
    models = {name: _report(*figures, n, draws) for name, figures in MODELS.items()}
    levels = {name: report["accuracy"] for name, report in models.items()}
    for name in models.keys() - {"base", "tuned"}:
        gain = (levels[name] - levels["base"]) / (levels["tuned"] - levels["base"])
        models[name]["recovered_gain"] = gain
    return {
        "seed": seed,
        "k": 40,
        "models": models,
        "differences": {name: _differences(models[main], report) for name, report in models.items() if name != main},
        "bins": {name: _bins(accuracy, ece, n, draws) for name, (accuracy, ece) in MODELS.items()},
        "controls": {
            name: {"setting": kind, "value": value * (1 + 0.1 * seed), "validation_accuracy": 0.83 + 0.01 * seed}
            for name, (kind, value) in SETTINGS.items()
        },
        "curve": [_point(method, k, draws) for method in STRENGTH for k in (4, 40, 400, 1600)],
        "detection": {"novel": {name: _detection(i, draws) for i, name in enumerate(("base", "tuned", main))}},
        "diagnosis": {"text": [f"Half of the movement of seed {seed} lies in 2 % of the weights."], "kurtosis": 119.0},
        "seconds": {"train": 60.0, "localize": 30.0},
    }


def made_up_patch() -> Patch:
    names = [f"layers.{i}.{part}.weight" for i in range(4) for part in ("attention", "mlp")]
    specs = {name: TensorSpec("F32", (500,)) for name in names}
    mask = Mask.of(specs, {name: range(5 * i + 1) for i, name in enumerate(names)})
    values = {name: torch.ones(len(mask[name])) for name in mask}
    base = BaseIdentity(name="toy", n_parameters=4000)
    return Patch(mask, values, dict.fromkeys(mask, "0" * 16), Provenance(base))


def _report(accuracy: float, ece: float, n: int, draws: np.random.Generator) -> dict[str, Any]:
    sets = {
        name: _set(accuracy - drop, ece + rise, n + more, draws)
        for name, drop, rise, more in (("test", 0, 0, 0), ("near", 0.02, 0.02, 40), ("far", 0.08, 0.05, 90))
    }
    return {**sets.pop("test"), "ood": sets}


def _set(accuracy: float, ece: float, n: int, draws: np.random.Generator) -> dict[str, Any]:
    accuracy, ece = accuracy + draws.normal(0, 0.006), abs(ece + draws.normal(0, 0.004))
    numbers = {"accuracy": accuracy, "f1": accuracy - 0.01, "nll": 0.3 + 2 * ece, "brier": 0.2 + ece, "ece": ece}
    numbers |= {"ece_mass": ece, "ece_debiased": 0.8 * ece, "mce": 2 * ece}
    ci = {key: [value - 0.02, value + 0.02] for key, value in numbers.items()}
    return {"n": n, **numbers, "ece_floor": 0.019, "ci": ci}


def _differences(main: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    pairs = {"test": (main, other), **{name: (main["ood"][name], other["ood"][name]) for name in main["ood"]}}
    return {
        name: {
            metric: {"estimate": (d := a[metric] - b[metric]), "low": d - 0.015, "high": d + 0.015}
            for metric in ("accuracy", "ece")
        }
        for name, (a, b) in pairs.items()
    }


def _bins(accuracy: float, ece: float, n: int, draws: np.random.Generator) -> dict[str, Any]:
    confidence = np.clip(draws.normal(accuracy + ece, 0.12, n), 0.5, 0.999)
    correct = draws.random(n) < np.clip(confidence - ece, 0, 1)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    bins = reliability_bins(Outcomes.from_probabilities(probabilities, 1 - correct.astype(int)))
    return {key: [None if np.isnan(x) else float(x) for x in values] for key, values in vars(bins).items()}


def _point(method: str, k: int, draws: np.random.Generator) -> dict[str, Any]:
    reached = 1 - np.exp(-STRENGTH[method] * k / 25)
    numbers = {
        "accuracy": 0.62 + 0.24 * reached + draws.normal(0, 0.004),
        "ece": 0.02 + 0.09 * reached * (k / 1600) ** 0.3 + draws.normal(0, 0.004),
    }
    gain = (numbers["accuracy"] - 0.62) / 0.24
    return {"method": method, "density": k / 4000, "k": k, "nll": 0.5, "recovered_gain": gain, **numbers}


def _detection(i: int, draws: np.random.Generator) -> dict[str, Any]:
    scores = {
        score: {"auroc": 0.7 + 0.08 * i + draws.normal(0, 0.01), "fpr95": 0.6 - 0.1 * i} for score in ("msp", "energy")
    }
    return {**scores, "n_in": 160, "n_out": 120}
