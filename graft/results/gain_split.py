"""The gain of a cut patch, split: how much of it its controls reach, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.controls.registry import CONTROLS, PatchControl
from graft.evaluate.t_interval import mean_interval
from graft.results.figures import TEST
from graft.results.models import REFIT, Model
from graft.results.seeds import SingleSeed
from graft.results.tables import TextTable


@dataclass(frozen=True)
class GainShare:
    """The share of a patch's gain in accuracy that a control of it reaches.

    Attributes:
        control: name in `graft.controls.registry`.
        reached_by: the control in words.
        gain: of the control, control - base, as mean, half-width of the 95 % t-interval over seeds, and values.
        share: gain of the control / gain of the patch, likewise, of each seed; None where the patch gains nothing in
            some seed.
    """

    control: str
    reached_by: str
    gain: Mapping[str, Any]
    share: Mapping[str, Any] | None


@dataclass(frozen=True)
class GainSplit:
    """The gain of a cut patch and the shares of it that controls reach.

    Attributes:
        patch: name of the base with the patch.
        gain: of the patch, as in `GainShare`.
        shares: of the controls that were measured, in the registry's order.
    """

    patch: str
    gain: Mapping[str, Any]
    shares: tuple[GainShare, ...]

    @property
    def sentence(self) -> str:
        """The shares in words."""
        if any(item.share is None for item in self.shares):
            return f"{self.patch} gains nothing in some seed, so that there is nothing to split."
        parts = [f"{_percent(item.share)} by {item.reached_by}" for item in self.shares if item.share]
        return f"Of the gain of {self.patch} in accuracy is reached: {'; '.join(parts)}."

    def table(self) -> TextTable:
        """Return a row for the patch and for each control: gain in accuracy, and share of the patch's."""
        rows = [[self.patch, _points(self.gain), "100 %"]]
        rows += [[item.control, _points(item.gain), _percent(item.share)] for item in self.shares]
        return TextTable(["control of the patch", "accuracy - base", "share"], rows)


def split_gain(seeds: Sequence[SingleSeed], models: Mapping[str, Model]) -> GainSplit | None:
    """Split the gain of the main method's cut patch on test; None where no control of it was measured.

    Args:
        seeds: results of each seed.
        models: of the run, in its order.
    """
    patch = next((name for name, model in models.items() if model.role == "graft" and model.method != REFIT), None)
    controls = {name: row for name, row in _controls(models) if all(name in seed.models for seed in seeds)}
    if patch is None or not controls:
        return None
    own = _gains(seeds, patch)
    shares = []
    for name, row in controls.items():
        gains = _gains(seeds, name)
        ratios = [gain / whole for gain, whole in zip(gains, own, strict=True)] if min(own) > 0 else None
        share = None if ratios is None else mean_interval(ratios)
        shares.append(GainShare(row.name, row.reached_by, mean_interval(gains), share))
    return GainSplit(patch, mean_interval(own), tuple(shares))


def _controls(models: Mapping[str, Model]) -> Iterator[tuple[str, PatchControl]]:
    """Yield name and row of the models that are controls of a patch, in the registry's order."""
    names = {model.method: name for name, model in models.items() if model.role == "graft"}
    for row in CONTROLS.values():
        if isinstance(row, PatchControl) and row.name in names:
            yield names[row.name], row


def _gains(seeds: Sequence[SingleSeed], name: str) -> list[float]:
    accuracies = [[seed.models[model][TEST].numbers["accuracy"] for model in (name, "base")] for seed in seeds]
    return [graft - base for graft, base in accuracies]


def _percent(share: Mapping[str, Any] | None) -> str:
    if share is None:
        return "–"
    half = "" if share["half"] is None else f" ± {100 * share['half']:.0f}"
    return f"{100 * share['mean']:.0f}{half} %"


def _points(gain: Mapping[str, Any]) -> str:
    half = "" if gain["half"] is None else f" ± {gain['half']:.3f}"
    return f"{gain['mean']:+.3f}{half}"
