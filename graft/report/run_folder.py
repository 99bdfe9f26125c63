"""What `graft run` left in a folder, read and checked: typed, and without what is absent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graft.errors import DataError
from graft.evaluate.bootstrap import Difference
from graft.evaluate.calibration import ReliabilityBins
from graft.patch.format.reading import load_patch
from graft.patch.skill_patch import Patch
from graft.report.json_node import Node

RESULTS = "results.json"
TEST = "test"  # the held-out split, beside the names of the out-of-distribution sets


@dataclass(frozen=True)
class SetFigures:
    """One model on one set: plain numbers, and the 95 % bootstrap interval over examples of some of them."""

    numbers: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Control:
    """How a simpler explanation was set so that it is as accurate as the graft on validation."""

    setting: str
    value: float
    validation_accuracy: float | None


@dataclass(frozen=True)
class CurvePoint:
    """A patch of one method at one density, measured on test."""

    method: str
    density: float
    k: int
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Seed:
    """One seed of a run.

    Attributes:
        seed: its number.
        k: entries of the main patch.
        models: model -> set -> figures.
        differences: model -> set -> metric -> main graft minus that model, paired by example.
        bins: model -> reliability bins on test.
        controls: model -> how it was chosen.
        curve: patches over densities.
        detection: set -> model -> "msp.auroc", "energy.fpr95", ..., "n_in", "n_out".
        diagnosis: sentences; diagnosis_numbers: the plain numbers beside them.
        seconds: stage -> seconds.
    """

    seed: int
    k: int
    models: Mapping[str, Mapping[str, SetFigures]]
    differences: Mapping[str, Mapping[str, Mapping[str, Difference]]]
    bins: Mapping[str, ReliabilityBins]
    controls: Mapping[str, Control]
    curve: tuple[CurvePoint, ...]
    detection: Mapping[str, Mapping[str, Mapping[str, float]]]
    diagnosis: tuple[str, ...]
    diagnosis_numbers: Mapping[str, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class RunFolder:
    """A finished run.

    Attributes:
        name: of the recipe.
        path: the folder.
        method: of the main patch.
        settings: "key" or "block.key" of the recipe -> value as text.
        seeds: in the order of the file, one or more.
        missed: expectations that were not met, as sentences.
    """

    name: str
    path: Path
    method: str
    settings: Mapping[str, str]
    seeds: tuple[Seed, ...]
    missed: tuple[str, ...]

    @property
    def main(self) -> str:
        """The model that the run is about."""
        return f"graft ({self.method})"

    def patch(self) -> Patch | None:
        """The main patch of the first seed, None where the folder does not hold it.

        Raises:
            PatchFormatError: the file is not a patch.
        """
        if not re.fullmatch(r"[\w-]+", self.method):  # a stranger's name leads nowhere else
            return None
        seed = self.seeds[0].seed
        places = (f"seed-{seed}/{self.method}.safetensors", f"seed-{seed}-{self.method}.safetensors")
        return next((load_patch(self.path / place) for place in places if (self.path / place).is_file()), None)


def load_results(path: Path) -> Node:
    """The results in a folder that `graft run` wrote, not looked into.

    Raises:
        DataError: it is no such folder, or they are no JSON.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    file = path / RESULTS
    if not file.is_file():
        raise DataError(f"{path}: holds no {RESULTS}; `graft run` writes it when a run is finished")
    return Node.load(file)


def read_run(path: Path, results: Node | None = None) -> RunFolder:
    """Read a folder that `graft run` wrote.

    Args:
        path: the folder.
        results: what `load_results` gave, where it was asked already.

    Raises:
        DataError: it is no such folder, or its results are broken; the line names file and place.
    """
    root, file = results or load_results(path), path / RESULTS
    recipe = root.need("recipe")
    seeds = tuple(_read_seed(node) for node in root.need("seeds").elements())
    if not seeds:
        raise DataError(f"{file}: seeds: holds no seed")
    missed = root.get("missed")
    return RunFolder(
        name=recipe.need("name").text(),
        path=path,
        method=_main_method(recipe, seeds, file),
        settings=dict(_settings(recipe)),
        seeds=seeds,
        missed=tuple(node.text() for node in missed.elements()) if missed else (),
    )


def _main_method(recipe: Node, seeds: tuple[Seed, ...], file: Path) -> str:
    method = recipe.need("localize").need("method").text()
    for seed in seeds:
        for name in ("base", "tuned", f"graft ({method})"):
            if name not in seed.models:
                raise DataError(f"{file}: seed {seed.seed}: models: holds no {name!r}")
    return method


def _settings(recipe: Node, above: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, node in recipe.items():
        if isinstance(node.value, dict):
            rows += _settings(node, f"{above}{key}.")
        else:
            plain = isinstance(node.value, list)
            rows.append((above + key, ", ".join(map(str, node.value)) if plain else str(node.value)))
    return rows


def _read_seed(node: Node) -> Seed:
    parts = {key: dict(child.items()) if (child := node.get(key)) else {} for key in _MAPPINGS}
    curve, diagnosis = node.get("curve"), node.get("diagnosis")
    sentences = diagnosis.get("text") if diagnosis else None
    return Seed(
        seed=node.need("seed").whole(),
        k=node.need("k").whole(),
        models={name: _read_report(item) for name, item in node.need("models").items()},
        differences={name: _read_differences(item) for name, item in parts["differences"].items()},
        bins={name: _read_bins(item) for name, item in parts["bins"].items()},
        controls={name: _read_control(item) for name, item in parts["controls"].items()},
        curve=tuple(_read_point(item) for item in curve.elements()) if curve else (),
        detection={name: _read_detection(item) for name, item in parts["detection"].items()},
        diagnosis=tuple(item.text() for item in sentences.elements()) if sentences else (),
        diagnosis_numbers=diagnosis.numbers() if diagnosis else {},
        seconds={name: item.number() for name, item in parts["seconds"].items()},
    )


_MAPPINGS = ("differences", "bins", "controls", "detection", "seconds")


def _read_report(node: Node) -> dict[str, SetFigures]:
    inner = node.get("ood")
    sets = {name: _read_set(item) for name, item in inner.items() if name != TEST} if inner else {}
    return {TEST: _read_set(node), **sets}


def _read_set(node: Node) -> SetFigures:
    for key in ("accuracy", "ece"):
        node.need(key).number()
    ci = node.get("ci")
    pairs = {name: [end.number() for end in item.elements()] for name, item in ci.items()} if ci else {}
    if ci and any(len(ends) != 2 for ends in pairs.values()):
        ci.refuse("pairs of numbers")
    return SetFigures(node.numbers(), {name: (ends[0], ends[1]) for name, ends in pairs.items()})


def _read_differences(node: Node) -> dict[str, dict[str, Difference]]:
    return {
        name: {
            metric: Difference(*(item.need(key).number() for key in ("estimate", "low", "high")))
            for metric, item in inner.items()
        }
        for name, inner in node.items()
    }


def _read_bins(node: Node) -> ReliabilityBins:
    edges, count = ([item.number() for item in node.need(key).elements()] for key in ("edges", "count"))
    means = [
        [np.nan if item.value is None else item.number() for item in node.need(key).elements()]
        for key in ("confidence", "accuracy")
    ]
    n = len(count)
    fits = len(edges) == n + 1 and all(len(mean) == n for mean in means) and all(np.diff(edges) >= 0)
    filled = [c == 0 or not (np.isnan(a) or np.isnan(b)) for c, a, b in zip(count, *means, strict=True)] if fits else []
    if not fits or min(count, default=0) < 0 or sum(count) <= 0 or not all(filled):
        node.refuse("reliability bins: ascending edges, and for each bin count, confidence and accuracy")
    return ReliabilityBins(np.array(edges), np.array(count), *(np.array(mean) for mean in means))


def _read_control(node: Node) -> Control:
    accuracy = node.get("validation_accuracy")
    return Control(
        node.need("setting").text(), node.need("value").number(), accuracy.number() if accuracy is not None else None
    )


def _read_point(node: Node) -> CurvePoint:
    density = node.need("density")
    if not density.number() > 0:
        density.refuse("a share above 0")
    return CurvePoint(node.need("method").text(), density.number(), node.need("k").whole(), node.numbers())


def _read_detection(node: Node) -> dict[str, dict[str, float]]:
    return {model: dict(_flat(item)) for model, item in node.items()}


def _flat(node: Node) -> list[tuple[str, float]]:
    rows = list(node.numbers().items())
    for key, inner in node.items():
        if isinstance(inner.value, dict):
            rows += [(f"{key}.{name}", number) for name, number in inner.numbers().items()]
    return rows
