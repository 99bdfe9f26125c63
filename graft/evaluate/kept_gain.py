"""What a patch keeps of the gain, on validation, in a line for whoever has just cut it; and what would keep more."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from graft.evaluate.comparison import recovered_gain
from graft.evaluate.on_validation import OnValidation
from graft.evaluate.rounding import reaches
from graft.localize.diagnosis import LOCAL, diagnose_movement
from graft.localize.registry import LOCALIZATION_METHODS, LocalizationMethod
from graft.patch.skill_patch import Patch
from graft.sources.opening import Model
from graft.specs.localize import LocalizeSpec
from graft.specs.reader import to_plain
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.task import Task

KEPT = 0.85  # of the gain; a patch that keeps less is told what would keep more


@dataclass(frozen=True)
class KeptGain:
    """A patch's gain on validation.

    Attributes:
        n: validation examples.
        base, tuned, graft: accuracy of the three models on them, 0 to 1.
        gain: (graft - base) / (tuned - base); None where tuning gained nothing.
        chosen_by: what chose the entries or values by the same examples; None where nothing did.
        suggested: a larger density that is likely to hold more; None where there is none, or none is needed.
        is_refit: whether the values were fitted, so that other advice helps.
    """

    n: int
    base: float
    tuned: float
    graft: float
    gain: float | None
    chosen_by: str | None = None
    suggested: float | None = None
    is_refit: bool = False

    @property
    def is_enough(self) -> bool:
        """Return whether nothing needs to be advised: enough is kept, or there is no gain to keep."""
        return self.tuned <= self.base or self.gain is None or reaches(self.gain, KEPT)

    @property
    def sentence(self) -> str:
        """The gain that is kept, and where that is little, what would keep more."""
        measured = f"base {self.base:.3f}, tuned {self.tuned:.3f}, graft {self.graft:.3f}; n={self.n:,}"
        bound = f"; {self.chosen_by} chose by these examples: an upper bound" if self.chosen_by else ""
        if self.tuned <= self.base or self.gain is None:
            return f"there is no gain on validation to keep ({measured}{bound})"
        fact = f"keeps {self.gain:.2f} of the gain on validation ({measured}{bound})"
        return fact if self.is_enough else f"{fact}; {self._advice}"

    @property
    def _advice(self) -> str:
        if self.is_refit:
            return "what would keep more: a larger --density, or more texts like those of the task"
        denser = f"--density {self.suggested:g}, " if self.suggested else ""
        return f"what would keep more: {denser}--refit, or `graft train --localizable`"

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and the sentence."""
        plain: dict[str, Any] = to_plain(self)
        return plain | {"sentence": self.sentence}


def measure_kept(
    base: Model,
    tuned: Model,
    task: Task,
    patch: Patch,
    config: LocalizeSpec | None = None,
    *,
    runtime: Runtime = DEFAULT,
) -> KeptGain:
    """Measure base, tuned and graft on the validation split, in three predictions.

    Args:
        base, tuned: the checkpoints that the patch was cut from.
        task: of which the validation examples are predicted.
        patch: the patch.
        config: how it was localized.
        runtime: where and how the models run.

    Raises:
        MismatchError, PatchMismatchError, CheckpointError, DataError, ConfigError: an input is refused; it says why.
    """
    config = config or LocalizeSpec()
    validation = OnValidation.open(base, tuned, task, config.batch_size, runtime)
    graft = validation.measure(patch)
    kept = KeptGain(
        n=len(validation.examples),
        base=validation.base,
        tuned=validation.tuned,
        graft=graft,
        gain=recovered_gain(graft, validation.base, validation.tuned),
        chosen_by=config.method if _chooses_by_validation(config.method) else None,
    )
    return (
        kept if kept.is_enough else dataclasses.replace(kept, suggested=_find_denser(base, tuned, patch, config.scope))
    )


def kept_by_refit(patch: Patch) -> KeptGain | None:
    """Return what a refit measured of the values that it kept; None where no labels told, or it is not recorded.

    No model is run: the patch says it.
    """
    record = patch.provenance.refit
    n, tuned = record.get("n_validation"), record["tuned"]
    start, kept = record["candidates"][0]["measured"], record["kept"]["measured"]
    if not n or tuned is None or any("accuracy" not in measured for measured in (start, kept, tuned)):
        return None
    base, graft, whole = (float(measured["accuracy"]) for measured in (start, kept, tuned))
    return KeptGain(n, base, whole, graft, recovered_gain(graft, base, whole), "the refit", is_refit=True)


def _chooses_by_validation(method: str) -> bool:
    entry = LOCALIZATION_METHODS[method]
    return isinstance(entry, LocalizationMethod) and entry.needs_validation


def _find_denser(base: Model, tuned: Model, patch: Patch, scope: str) -> float | None:
    """Find the sparsest density above the patch's own that is likely to hold more than half of the skill."""
    diagnosis = diagnose_movement(base, tuned, scope=scope)
    denser = [top for top in diagnosis.top if top.density * diagnosis.n_parameters > patch.k + 1]
    return next((top.density for top in denser if top.squared >= LOCAL), None)
