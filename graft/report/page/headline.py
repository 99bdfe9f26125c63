"""A run in words: its headline, how it does out of distribution, how large its patch is."""

from __future__ import annotations

from dataclasses import dataclass

from graft.report.estimates import decimal, difference_of, estimate_of, gain_of, sets_of
from graft.report.run_folder import RunFolder
from graft.results.cells import count, percent
from graft.results.figures import TEST


@dataclass(frozen=True)
class Share:
    """The main patch's size: entries, as number and as text, all parameters of the base, if known, and the density."""

    k: float
    entries: str
    n_parameters: int | None
    density: float | None

    def __str__(self) -> str:
        if self.n_parameters:
            return f"{self.entries} of {count(self.n_parameters)} weights ({percent(self.k / self.n_parameters)})"
        return f"{self.entries} weights" + (f" ({percent(self.density)})" if self.density else "")


def state_result(run: RunFolder, share: Share) -> str:
    """Say what the run showed, in a sentence or two."""
    gain = gain_of(run, run.main)
    accuracy, tuned = (estimate_of(run, name, "accuracy") for name in (run.main, "tuned"))
    if gain is not None:
        first = f"{share} recover {gain} of the gain of tuning"
    else:
        first = f"{share} reach an accuracy of {accuracy} on a task where tuning did not help in every seed"
    return f"{first}. Accuracy {accuracy} (tuned {tuned}), {_calibration(run)}."


def _calibration(run: RunFolder) -> str:
    graft, tuned = estimate_of(run, run.main, "ece"), estimate_of(run, "tuned", "ece")
    difference = difference_of(run, "tuned", "ece")
    words = {"tie": ": a tie", "ahead": ": better calibrated", "behind": ": worse calibrated"}
    return f"ECE {graft} (tuned {tuned}){words.get(difference.verdict, '') if difference else ''}"


def _describe_set(run: RunFolder, name: str) -> str | None:
    """Say how the graft does on an out-of-distribution set beside the tuned model."""
    graft, tuned = estimate_of(run, run.main, "accuracy", name), estimate_of(run, "tuned", "accuracy", name)
    if graft is None or tuned is None:
        return None
    return f"{name} {decimal(graft.mean)} (tuned {decimal(tuned.mean)})"


def state_out_of_distribution(run: RunFolder) -> str | None:
    """Say in one sentence how accurate the graft is on all out-of-distribution sets."""
    parts = [_describe_set(run, name) for name in sets_of(run) if name != TEST]
    known = [part for part in parts if part]
    return f"Out of distribution, accuracy: {', '.join(known)}." if known else None


def interval_words(run: RunFolder) -> str:
    """Say what an interval of this run is."""
    n = len(run.seeds)
    if n > 1:
        return f"mean over {n} seeds ± 95 % t-interval"
    return "one seed; in brackets the 95 % bootstrap interval over examples"
