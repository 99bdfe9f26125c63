"""A short search on validation for how to train so that few weights hold the skill: the default of a TASK.

1. A training of all weights in scope with the L1 proximal step towards the base finds k weights, and only these train,
   from the base: both as in `graft.train.localizable`. The second is tried at one learning rate after another, until
   few weights are as good as all were in the first.
2. All others in scope train by AdamW, from there, while these k and a new head stay as they are.

The last training adds what k weights cannot hold, so that the tuned model is as good as one that was tuned plainly. A
patch of these k is the model of few weights, bit for bit. Hardly a weight of the rest moves as far, so that `graft
localize` finds nearly all of them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from graft.specs.localizable import LocalizableSpec
from graft.specs.search import SearchSpec
from graft.specs.train import TrainSpec
from graft.train.localizable import configure_proximal


@dataclass(frozen=True)
class Trial:
    """Few weights trained at one learning rate.

    Attributes:
        lr: learning rate.
        accuracy: on validation, 0 to 1.
    """

    lr: float
    accuracy: float


@dataclass(frozen=True)
class Search:
    """A finished search; accuracies are on validation, 0 to 1.

    Attributes:
        base: accuracy of the base.
        pulled: accuracy of the training that found the few weights.
        trials: few weights at each learning rate that was tried.
        lr: the learning rate that is kept.
        tuned: accuracy when the others have trained too.
        kept: share of the gain that the patch of the few weights keeps; None where nothing was gained.
    """

    base: float
    pulled: float
    trials: tuple[Trial, ...]
    lr: float
    tuned: float
    kept: float | None

    @classmethod
    def of(cls, base: float, pulled: float, trials: Mapping[float, float], lr: float, tuned: float) -> Search:
        """Make it from the accuracies, those of the trials by learning rate."""
        kept = (trials[lr] - base) / (tuned - base) if tuned > base else None
        return cls(base, pulled, tuple(Trial(*item) for item in trials.items()), lr, tuned, kept)

    @property
    def lines(self) -> list[str]:
        """A line for each training, and what the patch keeps."""
        few = [_describe(trial.lr, trial.accuracy) for trial in self.trials]
        result = "nothing was gained" if self.kept is None else f"a patch of the few keeps {self.kept:.2f} of the gain"
        rest = f"the others, beside the few of lr {self.lr:g}: validation {self.tuned:.3f}; {result}"
        return [f"base: validation {self.base:.3f}", _describe_pulled(self.pulled), *few, rest]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self) | {"trials": [dataclasses.asdict(trial) for trial in self.trials]}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Search:
        """Read what `to_json` gave."""
        return cls(**{**plain, "trials": tuple(Trial(**trial) for trial in plain["trials"])})


def search_rate(search: SearchSpec, pulled: float, train_few: Callable[[float], float]) -> float:
    """Try one learning rate after another until few weights are as good as all were; return the one to keep.

    Args:
        search: what to try.
        pulled: accuracy on validation of the training that found the few.
        train_few: trains them at a learning rate; returns the accuracy on validation.
    """
    _say(_describe_pulled(pulled))
    accuracies: dict[float, float] = {}
    for rate in search.rates:
        accuracies[rate] = train_few(rate)
        _say(_describe(rate, accuracies[rate]))
        if accuracies[rate] >= pulled - search.within:
            return rate
    return max(accuracies, key=lambda rate: accuracies[rate])  # the first of equals


def configure_pulled(config: TrainSpec, search: SearchSpec) -> TrainSpec:
    """Return the train block of the training that finds the few weights."""
    return configure_proximal(dataclasses.replace(config, search=None), LocalizableSpec(density=search.density))


def configure_few(config: TrainSpec, search: SearchSpec, rate: float) -> TrainSpec:
    """Return the train block of the training of few weights at a learning rate."""
    return dataclasses.replace(config, localizable=LocalizableSpec(density=search.density, lr=rate), search=None)


def configure_rest(config: TrainSpec, search: SearchSpec) -> TrainSpec:
    """Return the train block of the training of all others."""
    return dataclasses.replace(
        config, optimizer="adamw", lr=search.rest_lr, epochs=search.rest_epochs, l1=0.0, search=None
    )


def list_stages(config: TrainSpec) -> list[TrainSpec]:
    """Return the train blocks of both kinds of training, few and rest; the block alone where it has no search."""
    if (search := config.search) is None:
        return [config]
    return [configure_few(config, search, search.rates[0]), configure_rest(config, search)]


def _describe_pulled(accuracy: float) -> str:
    return f"all weights, pulled towards the base, to find the few: validation {accuracy:.3f}"


def _describe(rate: float, accuracy: float) -> str:
    return f"few weights, lr {rate:g}: validation {accuracy:.3f}"


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
