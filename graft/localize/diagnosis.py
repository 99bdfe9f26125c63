"""Diagnosis of a tuned checkpoint: whether few weights can hold its skill, told from their deltas without data.

The share of the squared deltas that lies in the k largest decides, where k is the size of the patch: if the rest is the
small change of every weight that an optimizer leaves behind, no choice of a few entries holds the skill. Measured
(all-MiniLM-L6-v2, layers tuned; sst2 with 256 examples per class, trec with 64; all validation rows, 872 and 500, so
that a gain on sst2 is known to about .15), the share of the squared deltas in the k largest | the gain recovered by
just these k, by density:

    tuned by                                  1e-4          1e-3          1e-2          1e-4 by attribution
    sst2, SGD 1e-1 x 5 epochs, l1 5e-5        .43 | .81     .75 | 1.00    .96 | .97     .86
    the same, seed 1                          .41 | .59
    sst2, SGD 1e-1 x 3 epochs                 .16 | .52     .30 | .77     .53 | 1.04    .65
    sst2, SGD 5e-2 x 5 epochs                 .15 | .53     .29 | .82     .52 | .95     .57
    sst2, AdamW 5e-5 x 3 epochs               .003 | .00    .025 | .09    .15 | .35     .14
    sst2, AdamW 2e-5 x 3 epochs               .003 | .00    .024 | .08    .15 | .33     .10
    trec, SGD 1e-1 x 3 epochs, l1 5e-5        .40 | .55     .66 | .77     .90 | .95
    trec, AdamW 5e-5 x 3 epochs               .003 | .01    .022 | .08    .15 | .41

The gain rises with the share, across optimizers and densities: where the share is `LOCAL` or more, more than half of it
(.55 and up); below `SPREAD`, little (.14 and less), at every density. A score that uses the task's data gets somewhat
more out of the same checkpoint, as the last column shows. Kurtosis and the effective number tell the three kinds of
checkpoint apart, but not the densities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from graft.sources.opening import Model, open_pair
from graft.specs.reader import to_plain
from graft.tensors.dtypes import as_bits
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope

SAMPLE = 1 << 23  # weights from which a larger model is judged
DENSITIES = (1e-4, 1e-3, 1e-2)  # shares of all parameters, as the density of a patch
LOCAL = 0.25  # between .16, which held .52 of the gain, and .29, which held .82
SPREAD = 0.05  # between .025, which held .09 of the gain, and .15, which held .33 to .53

Verdict = Literal["still", "local", "between", "spread"]


@dataclass(frozen=True)
class TopShare:
    """The share of the k largest |delta| in all of them.

    Attributes:
        density: share of all parameters.
        k: number of entries in scope with the largest |delta|; a multiple of the step where only a sample was seen.
        squared: their share of the sum of delta^2, 0 to 1.
        absolute: their share of the sum of |delta|, 0 to 1.
    """

    density: float
    k: int
    squared: float
    absolute: float


@dataclass(frozen=True)
class Diagnosis:
    """The spread of the deltas, tuned - base, over the weights in scope.

    Attributes:
        scope: which tensors were looked at.
        n_parameters: of the base, all of them.
        n_scope: weights in scope.
        n_seen: number of them that were read, evenly spaced: all, up to `SAMPLE`.
        changed: share of those in scope whose bits changed.
        excess_kurtosis: of delta over all entries in scope; 0 for a normal distribution.
        effective: (sum delta^2)^2 / sum delta^4, the number of weights that would give this had they moved
            alike and no other, as a share of those in scope.
        effective_l1: (sum |delta|)^2 / sum delta^2, the same from lower powers.
        top: the share of the largest |delta|, for each of `DENSITIES`.
    """

    scope: str
    n_parameters: int
    n_scope: int
    n_seen: int
    changed: float
    excess_kurtosis: float
    effective: float
    effective_l1: float
    top: tuple[TopShare, ...]

    @property
    def verdict(self) -> Verdict:
        """The kind of checkpoint, by the share of the squared deltas in the top 1e-4."""
        if not self.top[0].squared:
            return "still"
        if self.top[0].squared >= LOCAL:
            return "local"
        return "spread" if self.top[0].squared < SPREAD else "between"

    @property
    def suggested(self) -> float | None:
        """The sparsest density that is likely to hold more than half of the skill; None where none is."""
        return next((top.density for top in self.top if top.squared >= LOCAL), None)

    @property
    def sentence(self) -> str:
        """The verdict for a person."""
        if self.verdict == "still":
            return f"No weight in the scope {self.scope} moved: there is nothing to localize."
        first = self.top[0]
        fact = f"{_percent(first.squared)} of the squared movement lies in {_percent(first.density)} of the weights"
        forecast = f"{fact}: a patch of that size is likely to hold {_FORECAST[self.verdict]} of the skill."
        return forecast if self.verdict == "local" else f"{forecast} {self._advice}"

    @property
    def _advice(self) -> str:
        remedy = (
            "`graft refit` fits as few values to the tuned model's answers; "
            "`graft train --localizable` trains so that few weights change"
        )
        if self.suggested is None:
            widest = self.top[-1].density
            return f"Nor is one of {_percent(widest)} to hold more than half: too many weights moved alike; {remedy}."
        return f"One of {_percent(self.suggested)} is likely to hold more than half of it; {remedy}."

    @property
    def sentences(self) -> tuple[str, ...]:
        """The facts and the verdict for a person."""
        if self.verdict == "still":
            return (self.sentence,)
        sampled = "" if self.n_seen == self.n_scope else f"; estimated from {self.n_seen:,} of them, evenly spaced"
        return (
            f"{_percent(self.changed)} of the {self.n_scope:,} weights moved (scope: {self.scope}{sampled}).",
            f"The movement is as concentrated as if {_percent(self.effective)} of them had moved alike "
            f"(excess kurtosis {self.excess_kurtosis:,.3g}).",
            self.sentence,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, the verdict, the suggested density and the sentence as plain values."""
        result: dict[str, Any] = to_plain(self)
        return result | {"verdict": self.verdict, "suggested": self.suggested, "sentence": self.sentence}


_FORECAST: dict[str, str] = {"local": "more than half", "between": "a part", "spread": "little"}


def diagnose_movement(base: Model, tuned: Model, *, scope: str = "layers") -> Diagnosis:
    """Diagnose a tuned checkpoint, reading both tensor by tensor.

    All weights in scope are looked at, or of a large model an evenly spaced sample, so that neither time nor memory
    grows with it. Values that are not looked at are not checked to be finite.

    Args:
        base, tuned: as for `localize_skill`.
        scope: which tensors to look at, as in `graft.tensors.scope`.

    Raises:
        MismatchError, CheckpointError, ConfigError: an input is refused; the line says which and why.
    """
    pair = open_pair(base, tuned).without_rounding()
    names = pair.names_in(Scope(scope))
    n = sum(pair.base.spec(name).numel for name in names)
    step = -(-n // SAMPLE) | 1  # odd: rows have even lengths, and so every column is sampled
    deltas, changed = _sample_all(pair, names, step)
    ks = {density: max(1, int(density * pair.base.n_parameters / step + 0.5)) for density in DENSITIES}
    concentration = measure_concentration(deltas, list(ks.values()))
    seen = max(concentration.n, 1)
    return Diagnosis(
        scope=scope,
        n_parameters=pair.base.n_parameters,
        n_scope=n,
        n_seen=concentration.n,
        changed=changed / seen,
        excess_kurtosis=concentration.excess_kurtosis,
        effective=concentration.participation / seen,
        effective_l1=concentration.participation_l1 / seen,
        top=tuple(_top_share(concentration, density, k, step) for density, k in ks.items()),
    )


@dataclass(frozen=True)
class Concentration:
    """Moments and sums of the deltas of n weights.

    Attributes:
        n: number of weights.
        moments: mean of delta, delta^2, delta^3, delta^4.
        absolute: sum of |delta|.
        squared: sum of delta^2.
        largest: k -> (sum of |delta|, sum of delta^2) over the k largest |delta|.
    """

    n: int
    moments: tuple[float, float, float, float]
    absolute: float
    squared: float
    largest: Mapping[int, tuple[float, float]]

    @property
    def excess_kurtosis(self) -> float:
        """Excess kurtosis m4 / m2^2 - 3 by central moments: 0 for a normal distribution, and for equal deltas."""
        first, second, third, fourth = self.moments
        variance = second - first**2
        central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
        return central / variance**2 - 3 if variance > 0 else 0.0

    @property
    def participation(self) -> float:
        """Inverse participation ratio, (sum delta^2)^2 / sum delta^4: k where k weights moved alike."""
        return self.n * self.moments[1] ** 2 / self.moments[3] if self.moments[3] else 0.0

    @property
    def participation_l1(self) -> float:
        """The same from lower powers, (sum |delta|)^2 / sum delta^2, which depends less on a few outliers."""
        return self.absolute**2 / self.squared if self.squared else 0.0


def measure_concentration(deltas: torch.Tensor, ks: Sequence[int]) -> Concentration:
    """Measure concentration by a sort, with all sums in fp64: exact up to rounding, at most 24 bytes a weight.

    Args:
        deltas: (n,) fp32, finite.
        ks: numbers of the largest to sum over; one above n means all.
    """
    exact = deltas.double().numpy()
    moments = [float((exact**power).sum()) / max(len(exact), 1) for power in (1, 2, 3, 4)]
    del exact
    magnitudes = np.sort(deltas.abs().numpy())[::-1].astype(np.float64)  # descending
    squares = np.square(magnitudes)
    largest = {k: (float(magnitudes[:k].sum()), float(squares[:k].sum())) for k in ks}
    first, second, third, fourth = moments
    n, total = len(magnitudes), float(magnitudes.sum())
    return Concentration(n, (first, second, third, fourth), total, float(squares.sum()), largest)


def _sample_all(pair: CheckpointPair, names: Sequence[str], step: int) -> tuple[torch.Tensor, int]:
    """Return the (n,) fp32 deltas of all tensors' samples, and the number of these weights that changed."""
    deltas, n_changed = [], 0
    for name in names:
        delta, changed = _sample(pair, name, step)
        deltas.append(delta)
        n_changed += int(changed.count_nonzero())
    return torch.cat(deltas), n_changed


def _sample(pair: CheckpointPair, name: str, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Read every step-th weight of one tensor: (n,) fp32 deltas, and (n,) bool, which bits changed."""
    base = pair.base.read(name).reshape(-1)[::step].contiguous()
    tuned = pair.align(base, pair.read_tuned(name).reshape(-1)[::step].contiguous())
    pair.refuse_not_finite(name, base, tuned)
    return tuned.float() - base.float(), as_bits(tuned) != as_bits(base)


def _top_share(concentration: Concentration, density: float, k: int, step: int) -> TopShare:
    absolute, squared = concentration.largest[k]
    k = min(k, concentration.n) * step
    return TopShare(density, k, _ratio(squared, concentration.squared), _ratio(absolute, concentration.absolute))


def _ratio(part: float, total: float) -> float:
    return min(part / total, 1.0) if total else 0.0


def _percent(share: float) -> str:
    """Write a share for a person, two digits: .0001 -> "0.01 %"."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.4g} %"
