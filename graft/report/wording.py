"""Figures in words: the headline of a run, verdicts, counts."""

from __future__ import annotations

from dataclasses import dataclass

from graft.report.estimates import Estimate, Paired, decimal, difference_of, figure_of, gain_of, sets_of
from graft.report.markup import Html, Piece, element, join
from graft.report.run_folder import RunFolder
from graft.results.cells import MISSING, count, percent
from graft.results.figures import TEST


@dataclass(frozen=True)
class Share:
    """The main patch's size: entries, all parameters of the base where they are known, and the density."""

    k: int
    n_parameters: int | None
    density: float | None

    def __str__(self) -> str:
        if self.n_parameters:
            return f"{self.k:,} of {count(self.n_parameters)} weights ({percent(self.k / self.n_parameters)})"
        return f"{self.k:,} weights" + (f" ({percent(self.density)})" if self.density else "")


def headline(run: RunFolder, share: Share) -> str:
    """What the run showed, in a sentence or two."""
    gain = gain_of(run, run.main)
    accuracy, tuned = (figure_of(run, name, "accuracy") for name in (run.main, "tuned"))
    if gain is not None:
        first = f"{share} recover {gain} of the gain of tuning"
    else:
        first = f"{share} reach an accuracy of {accuracy} on a task where tuning did not help in every seed"
    return f"{first}. Accuracy {accuracy} (tuned {tuned}), {_calibration(run)}."


def _calibration(run: RunFolder) -> str:
    graft, tuned = figure_of(run, run.main, "ece"), figure_of(run, "tuned", "ece")
    difference = difference_of(run, "tuned", "ece")
    words = {"tie": ": a tie", "ahead": ": better calibrated", "behind": ": worse calibrated"}
    return f"ECE {graft} (tuned {tuned}){words.get(difference.verdict, '') if difference else ''}"


def overview_sentence(run: RunFolder, name: str) -> str | None:
    """How the graft does on an out-of-distribution set beside the tuned model."""
    graft, tuned = figure_of(run, run.main, "accuracy", name), figure_of(run, "tuned", "accuracy", name)
    if graft is None or tuned is None:
        return None
    return f"{name} {decimal(graft.mean)} (tuned {decimal(tuned.mean)})"


def elsewhere(run: RunFolder) -> str | None:
    """Accuracy on all out-of-distribution sets in one sentence."""
    parts = [overview_sentence(run, name) for name in sets_of(run) if name != TEST]
    found = [part for part in parts if part]
    return f"Out of distribution, accuracy: {', '.join(found)}." if found else None


def signed(difference: float) -> str:
    """Three decimals with a sign, unless that is 0."""
    return f"{'+' if difference >= 0.0005 else ''}{decimal(difference)}"


def cell(figure: Estimate | None) -> Piece:
    """A figure with its interval, for a table."""
    if figure is None:
        return MISSING
    return join([decimal(figure.mean), *_range(figure)])


def paired_cell(paired: Paired | None) -> Piece:
    """A paired difference with its interval and its verdict."""
    if paired is None:
        return MISSING
    word = (
        Html("") if paired.verdict == "unknown" else join([" ", element("span", paired.verdict, klass=paired.verdict)])
    )
    return join([signed(paired.estimate.mean), *_range(paired.estimate), word])


def apart_cell(paired: Paired | None) -> Piece:
    """In how many seeds the interval over examples excludes 0."""
    return f"{paired.apart} of {len(paired.parts)}" if paired and paired.parts else MISSING


def _range(figure: Estimate) -> list[Html | str]:
    return [" ", element("span", figure.interval, klass="range")] if figure.interval else []
