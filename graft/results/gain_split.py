"""The gain of a cut patch, split: how much of it its controls reach, seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from graft.controls.registry import CONTROLS, PatchControl
from graft.evaluate.t_interval import mean_interval, ratio_interval
from graft.results.cells import MISSING
from graft.results.figures import TEST
from graft.results.models import REFIT, Model
from graft.results.seeds import SingleSeed
from graft.results.tables import TextTable

NOTABLE = 0.05  # share of a control's entries that are the patch's own, from which on the sentence says so


@dataclass(frozen=True)
class GainShare:
    """The share of a patch's gain in accuracy that a control of it reaches.

    Attributes:
        control: name in `graft.controls.registry`.
        reached_by: the control in words.
        gain: of the control, control - base, as mean, half-width of the 95 % t-interval over seeds, and values.
        share: mean gain of the control / mean gain of the patch, as `ratio_interval` gives it; None where the patch
            gains nothing.
        own: mean share of the control's entries of matrices that are the patch's own; None where that is not known.
    """

    control: str
    reached_by: str
    gain: Mapping[str, Any]
    share: Mapping[str, Any] | None
    own: float | None = None


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
            return f"{self.patch} gains nothing, so that there is nothing to split."
        parts = [f"{_percent(item.share)} by {item.reached_by}{_of_own(item)}" for item in self.shares if item.share]
        return f"Of the gain of {self.patch} in accuracy is reached: {'; '.join(parts)}."

    def table(self) -> TextTable:
        """Return a row for the patch and for each control: gain in accuracy, share of the patch's, its own entries."""
        rows = [[self.patch, _points(self.gain), "100 %", "100 %"]]
        rows += [[item.control, _points(item.gain), _percent(item.share), _own(item.own)] for item in self.shares]
        return TextTable(["control of the patch", "accuracy - base", "share", "of its matrices the patch's own"], rows)


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
        share = ratio_interval(gains, own) if sum(own) > 0 else None
        known = [seed.own_shares[name] for seed in seeds if name in seed.own_shares]
        shares.append(GainShare(row.name, row.reached_by, mean_interval(gains), share, mean(known) if known else None))
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
        return MISSING
    half = "" if share["half"] is None else f" ± {100 * share['half']:.0f}"
    return f"{100 * share['mean']:.0f}{half} %"


def _own(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.0f} %"


def _of_own(item: GainShare) -> str:
    return "" if item.own is None or item.own < NOTABLE else f" (of these {_own(item.own)} are the patch's own)"


def _points(gain: Mapping[str, Any]) -> str:
    half = "" if gain["half"] is None else f" ± {gain['half']:.3f}"
    return f"{gain['mean']:+.3f}{half}"
