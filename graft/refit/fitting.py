"""Fitting of k values by Adam on these values alone, the best of its epochs on validation kept.

A pass over the texts is an epoch. After each, two candidates are measured on validation: the values as they are, and
in the second half the mean of the values over all steps of it (Polyak averaging; of nets arXiv 1803.05407), which is
steadier. The candidate with the lowest measure is kept; the start is measured too, so that a refit that gains nothing
shows.

Adam (arXiv 1412.6980) with warm-up and linear decay to 0; at step i of n, from 0, with t = (i + 1/2) / n,

    lr * min(t / warmup, (1 - t) / (1 - warmup))

A rate that is too high shows in the first pass, whose mean loss is then near the divergence at the start. Where it is,
and no rate was asked for, the fitting starts again at a third of the rate, and goes on with whichever first pass has
the lower loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tqdm import tqdm

from graft.errors import TrainingError
from graft.parallel.sharded import is_sharded
from graft.refit.data import RefitData
from graft.refit.entries import Entries
from graft.refit.measured import Measured, add_accuracy, measure, measure_resident, measure_teacher
from graft.refit.mixture import MixedObjective
from graft.refit.objective import Objective
from graft.refit.teacher import ResidentTeacher
from graft.scores.candidates import CandidateSum
from graft.scores.entry_gradients import capture_entry_gradients
from graft.scores.gradients import backpropagate
from graft.specs.reader import to_plain
from graft.specs.refit import RefitSpec
from graft.tasks.examples import Example, split_by_length
from graft.tasks.loading import tell
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import digest_of

STUCK = 0.75  # of the divergence at the start; refits that went well had .37 to .61 of it in their first pass
SLOWER = 1 / 3  # of the rate; on SST-2 in a language model it took that loss from .147 to .070 nats, of .163
RESTARTS = 2


@dataclass(frozen=True)
class Candidate:
    """Values that a fitting may keep, measured on validation.

    Attributes:
        epoch: passes over the texts before it.
        kind: the "start", the "last" values of the epoch, or their "mean" over the second half.
        loss: mean over the epoch's steps, nats; None at the start.
        measured: on validation.
    """

    epoch: int
    kind: Literal["start", "last", "mean"]
    loss: float | None
    measured: Measured

    def later(self, epochs: int) -> Candidate:
        """Return the same as met so many epochs later, in another round."""
        return dataclasses.replace(self, epoch=self.epoch + epochs)


@dataclass(frozen=True, eq=False)
class Fit:
    """A finished fitting.

    Attributes:
        values: (k,) fp32, those that were kept.
        kept: which they are.
        candidates: all that were measured, in order.
        tuned: the tuned model; None where it predicts tokens and `measure_ends` has not measured it.
        lr: learning rate at its highest.
    """

    values: torch.Tensor
    kept: Candidate
    candidates: tuple[Candidate, ...]
    tuned: Measured | None
    lr: float


def fit_values(
    objective: Objective | MixedObjective,
    entries: Entries,
    data: RefitData,
    config: RefitSpec,
    start: Measured | None = None,
) -> Fit:
    """Fit the values of entries to an objective; the entries and, in its dtype, the model hold the kept ones then.

    Args:
        objective: over the live model, which holds the base's values but for the entries.
        entries: of that model, with the values to start from.
        data: texts to fit to, and examples to choose by.
        config: the refit block.
        start: the model on validation with the values to start from, where it has been measured.

    Raises:
        TrainingError: the loss is not finite.
    """
    entries.write(entries.values.detach())
    kept = Candidate(0, "start", None, start or measure(objective, data.validation))
    candidates, values = [kept], entries.values.detach().clone()
    fitting, loss = _begin(Fitting(objective, entries, data.train, config), kept.measured.kl)
    bar = tqdm(range(1, config.epochs + 1), desc="refit", unit="epoch", disable=None)
    for epoch in bar:
        loss = loss if epoch == 1 else fitting.run_epoch()
        for kind, present in fitting.candidates().items():
            entries.write(present)
            candidate = Candidate(epoch, kind, loss, measure(objective, data.validation))
            candidates.append(candidate)
            if candidate.measured.by(config.select) < kept.measured.by(config.select) or kept.kind == "start":
                kept, values = candidate, present.clone()
        entries.write(fitting.values)
        bar.set_postfix(loss=f"{loss:.4f}", kept=f"{kept.measured.by(config.select):.4f}")
    entries.hold(values)
    tuned = measure_teacher(objective.teacher, data.validation)
    return Fit(values, kept, tuple(candidates), tuned, fitting.lr)


def _begin(fitting: Fitting, divergence: float) -> tuple[Fitting, float]:
    """Run the first pass, at a lower rate where the default one ends near the divergence at the start.

    A support that can do little ends there at any rate, so that the lower one counts only where its loss, over the same
    batches, is lower too.

    Returns:
        The fitting to go on with, and its mean loss in nats.
    """
    entries, config, start = fitting.entries, fitting.config, fitting.values.clone()
    loss = fitting.run_epoch()
    for _ in range(RESTARTS if config.lr is None and not config.labels else 0):
        if loss <= STUCK * divergence:
            break
        reached = fitting.values.clone()
        entries.hold(start)
        slower = Fitting(
            fitting.objective, entries, fitting.examples, dataclasses.replace(config, lr=fitting.lr * SLOWER)
        )
        again = slower.run_epoch()
        if again >= loss:
            entries.hold(reached)
            break
        tell(
            f"note: the refit's first pass at a rate of {fitting.lr:.1g} ended near where it began ({loss:.3f} of "
            f"{divergence:.3f} nats): started again at {slower.lr:.1g}, whose first pass ended at {again:.3f}"
        )
        fitting, loss = slower, again
    return fitting, loss


def measure_ends(fit: Fit, objective: Objective, entries: Entries, data: RefitData) -> Fit:
    """Return a fit with what it keeps of the gain where a model predicts tokens; of classes it is known already.

    The accuracy of tokens takes passes of its own, or writing, so that it is that of the base, of the kept values and
    of the tuned model, not of every candidate. The live model holds the kept values before, the base's afterwards.
    """
    head, teacher, first = objective.head, objective.teacher, fit.candidates[0]
    if not isinstance(teacher, ResidentTeacher):
        entries.return_to_base()
        return fit
    kept = dataclasses.replace(fit.kept, measured=add_accuracy(fit.kept.measured, head, data.validation))
    entries.return_to_base()
    start = dataclasses.replace(first, measured=add_accuracy(first.measured, head, data.validation))
    candidates = [kept if candidate == fit.kept else candidate for candidate in fit.candidates[1:]]
    tuned = measure_resident(teacher, data.validation)
    return dataclasses.replace(fit, kept=kept, candidates=(start, *candidates), tuned=tuned)


def record_fit(teacher: Checkpoint, data: RefitData, fit: Fit) -> dict[str, Any]:
    """Return the record that a patch keeps of the fitting of its values: to which model, on which texts, what came."""
    return {
        "teacher": digest_of(teacher),
        "texts": data.describe(),
        "n_validation": len(data.validation),
        "kept": to_plain(fit.kept),
        "candidates": [to_plain(candidate) for candidate in fit.candidates],
        "tuned": None if fit.tuned is None else to_plain(fit.tuned),
    }


class Fitting:
    """A fitting at work, which runs one epoch after another.

    Args:
        objective: what to lower.
        entries: whose values.
        examples: to fit to.
        config: the refit block.
    """

    def __init__(
        self,
        objective: Objective | MixedObjective,
        entries: Entries,
        examples: Sequence[Example],
        config: RefitSpec,
    ) -> None:
        self.objective, self.entries, self.examples, self.config = objective, entries, examples, config
        self.lr = config.rate_of(len(entries))
        self.n_steps = config.epochs * -(-len(examples) // config.batch_size)
        self.n_taken = 0
        self._optimizer = torch.optim.Adam([entries.values], lr=self.lr)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._mean, self._n_averaged = torch.zeros_like(entries.base), 0

    @property
    def values(self) -> torch.Tensor:
        """The present values: (k,) fp32."""
        return self.entries.values.detach()

    def candidates(self) -> dict[Literal["last", "mean"], torch.Tensor]:
        """Return the values as they are and, in the second half, their mean over it."""
        return {"last": self.values, "mean": self._mean} if self._n_averaged else {"last": self.values}

    def run_epoch(self) -> float:
        """Run a pass over the examples in random order; return the mean loss in nats.

        Raises:
            TrainingError: the loss is not finite.
        """
        head, size = self.objective.head, self.config.batch_size
        head.model.eval()  # without dropout: the teacher's outputs are its own without it
        order = torch.randperm(len(self.examples), generator=self._generator).tolist()
        sink, total = CandidateSum(self.entries, head.ranks), 0.0
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        with capture_entry_gradients(head.model, sink):
            for positions in tqdm(batches, desc="epoch", unit="step", disable=None, leave=False):
                batch = [self.examples[i] for i in positions]
                total += self._step(batch, sink) * head.share(batch, self.examples)
        return total

    def _step(self, batch: Sequence[Example], sink: CandidateSum[Entries]) -> float:
        """Take one step on a batch, an equal part of which is every process's; return its mean loss."""
        ranks, losses = self.objective.head.ranks, []
        size = -(-len(batch) // ranks.world)
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        for part, counts in ranks.shard(parts):
            losses.append(sum(self._backpropagate(one, batch, counts) for one in self._split(part)))
            sink.end_batch(counts=counts)
        self._update(sink.pop())
        return sum(ranks.collect(losses, len(parts)))

    def _split(self, part: Sequence[Example]) -> Sequence[Sequence[Example]]:
        """Part examples by length where a pass costs what its tokens cost: on a CPU, in a model that is not sharded."""
        head = self.objective.head
        return split_by_length(part) if head.device.type == "cpu" and not is_sharded(head.model) else [part]

    def _backpropagate(self, part: Sequence[Example], batch: Sequence[Example], counts: bool) -> float:
        """Run both passes of a part of a batch; return its share of the batch's mean loss."""
        loss = self.objective(part) * self.objective.head.share(part, batch)
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()}: lower refit.lr")
        backpropagate(self.objective.head, loss, counts)
        return loss.item()

    def _update(self, gradient: torch.Tensor) -> None:
        self.entries.values.grad = gradient
        torch.nn.utils.clip_grad_norm_([self.entries.values], self.config.clip)
        t, warmup = (self.n_taken + 0.5) / self.n_steps, self.config.warmup
        rise = t / warmup if warmup else 1.0
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr * min(rise, (1 - t) / (1 - warmup))
        self._optimizer.step()
        self.entries.write(self.values)
        self.n_taken += 1
        if self.n_taken > self.n_steps / 2:
            self._n_averaged += 1
            self._mean += (self.values - self._mean) / self._n_averaged
