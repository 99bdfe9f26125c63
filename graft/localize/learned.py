"""A mask learned at an exact budget, by stochastic dual averaging through the hard top k.

Candidates are the `multiple` x k entries with the best starting scores: s_i is the sum of entry i's attributions over
the points of their path, plus a prior in proportion to |delta_i| (`_start_scores`). At each step, on a minibatch B of
the n training examples,

    m = top k of s (hard, exactly k, ties to the earlier coordinate),    theta = base + m * delta,
    s <- s - lr * |B| / n * g * delta,                                   g = gradient of B's mean loss at theta,

so that a pass over the examples weighs as much as `lr` further points of the path. It is the straight-through estimator
(Bengio et al. 2013, arXiv 1308.3432) with the identity in place of the top k's derivative: as in arXiv 2302.06600 the
gradient of a mask entry is g * delta, but taken at the very graft that will be used, never between base and tuned.
Summing is Nesterov's dual averaging (2009, Mathematical Programming 120), of which the start is the first points: s
keeps its unit, nats, and the loss's scale drops out of the order. Dividing by the gradient's size, as Adam does, gives
noise a vote: on sst2 it fitted no better and generalized worse (artifacts/LOG.md). As in attribution, class offsets are
set aside (`graft.scores.offsets`), here fitted at each step on the latest logits of all examples: otherwise the mask
swings from one class to the other.

Five candidates, k = 2, one pass of one batch at lr .5 (|B| = n), scores in nats:

    s at the start         (.9, .8, .6, .3, .1)     m = the first two
    g * delta at m         (-.2, .3, -.5, -.3, 0)   below 0: turning the entry on, or leaving it on, lowers the loss
    s - .5 * g * delta     (1., .65, .85, .45, .1)  m = the 1st and the 3rd, which takes the 2nd's place

No score jumps: a noisy batch moves each only by its own share of the sum, so that the mask changes by a lasting lead
and not by one batch.

After each pass the mask's NLL on validation is measured, and the mask with the lowest is kept, the starting one
among them. Restarts differ in the order of examples. Without validation examples (`learn.data: train+validation`,
which learns from both) the last mask is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tqdm import tqdm

from graft.errors import CheckpointError
from graft.localize.context import LocalizationContext
from graft.patch.mask import Mask
from graft.scores.candidates import Candidates, CandidateSum
from graft.scores.entry_gradients import capture_entry_gradients
from graft.scores.gradients import backpropagate
from graft.scores.offsets import RunningClassOffsets
from graft.scores.table import Scores
from graft.specs.localize import LearnSpec
from graft.tasks.examples import Example, sort_by_texts
from graft.tasks.head import Head


class MaskLearner:
    """A learner of candidates' scores.

    Attributes:
        scores: (n,) fp32, nats.

    Args:
        head: the model at hand, on which the candidates live.
        candidates: the entries to choose from.
        scores: (n,) fp32, the starting scores.
        examples: to learn from.
        config: learning rate, batch size.
        class_debias: set class offsets aside, where the head has classes.
    """

    def __init__(
        self,
        head: Head,
        candidates: Candidates,
        scores: torch.Tensor,
        examples: Sequence[Example],
        config: LearnSpec,
        *,
        class_debias: bool = True,
    ) -> None:
        self.head = head
        self.candidates = candidates
        self.examples = examples
        self.config = config
        self.scores = scores.clone()
        self._offsets = self._start_offsets() if class_debias and head.has_classes else None

    @property
    def chosen(self) -> torch.Tensor:
        """The present mask, the hard top k of the scores: (n,) bool."""
        return self.candidates.choose(self.scores)

    def run_epoch(self, generator: torch.Generator) -> float:
        """Run one pass over the examples in random order; return the mean loss in nats.

        Raises:
            CheckpointError: a loss is not finite.
        """
        n, size, total = len(self.examples), self.config.batch_size, 0.0
        whole = self._weigh(range(n))
        order = torch.randperm(n, generator=generator).tolist()
        sink = CandidateSum(self.candidates, self.head.ranks)
        with capture_entry_gradients(self.head.model, sink):
            for start in range(0, n, size):
                batch = order[start : start + size]
                # forward through the hard mask, backward as if a mask entry were a factor of delta: straight-through
                self.candidates.write(self.chosen)
                weight = self._weigh(batch)
                total += self._step(batch, sink) * weight
                rate = self.config.lr * weight / whole  # of a pass, so that lr does not depend on the batch size
                self.scores.addcmul_(sink.pop(), self.candidates.deltas, value=-rate)
        return total / whole

    def measure(self, examples: Sequence[Example], chosen: torch.Tensor) -> float:
        """Return the mean NLL in nats of a mask, `chosen` (n,) bool."""
        self.candidates.write(chosen)
        with torch.no_grad():
            size = self.config.batch_size
            batches = [examples[start : start + size] for start in range(0, len(examples), size)]
            sums = [
                self.head.loss(batch).item() * self.head.share(batch, examples)
                for batch, _ in self.head.ranks.shard(batches)
            ]
            return sum(self.head.ranks.collect(sums, len(batches)))

    def _step(self, batch: list[int], sink: CandidateSum[Candidates]) -> float:
        """Gather the gradient of a batch's mean loss, its micro-batches dealt out to processes; return that loss."""
        ranks, offsets, losses = self.head.ranks, self._offsets, []
        # without micro-batches each process gets an equal part of the batch, so that none is idle
        size = self.config.micro_batch or -(-len(batch) // ranks.world)
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        if offsets is not None:  # on the logits before this step: a fit on this batch alone would follow its classes
            offsets.fit()
        for part, counts in ranks.shard(parts):
            loss = self._loss(part) * (self._weigh(part) / self._weigh(batch))
            losses.append(loss.item())
            backpropagate(self.head, loss, counts)
            sink.end_batch(counts=counts)
        if offsets is not None:  # each process has the new logits of its own parts only
            offsets.share(parts, ranks)
        return sum(ranks.collect(losses, len(parts)))

    def _weigh(self, positions: Sequence[int]) -> int:
        return max(1, self.head.weigh([self.examples[i] for i in positions]))

    def _loss(self, positions: list[int]) -> torch.Tensor:
        batch, offsets = [self.examples[i] for i in positions], self._offsets
        loss = self.head.loss(batch) if offsets is None else offsets.loss(positions, self.head.logits(batch))
        if not torch.isfinite(loss):  # its gradient would make every score NaN, and the top k arbitrary
            raise CheckpointError(f"the loss is {loss.item()} at a graft of {int(self.chosen.sum()):,} entries")
        return loss

    def _start_offsets(self) -> RunningClassOffsets:
        self.candidates.write(self.chosen)
        logits = self.head.predict(self.examples, batch_size=self.config.batch_size, label="class offsets")
        return RunningClassOffsets(logits, torch.tensor([example.label for example in self.examples]))


def learn_mask(
    head: Head,
    candidates: Candidates,
    scores: torch.Tensor,
    train: Sequence[Example],
    validation: Sequence[Example],
    config: LearnSpec,
    seed: int,
    *,
    class_debias: bool = True,
) -> Mask:
    """Learn a mask of exactly k candidates: the one with the lowest validation NLL on the way, or the last.

    Without validation examples it is the last. The live model holds the base's values again afterwards, also after an
    error.

    Raises:
        CheckpointError: a loss is not finite.
    """
    head.model.eval()
    validation = sort_by_texts(validation)  # saves padding
    best, lowest = candidates.choose(scores), math.inf
    try:
        for restart in range(config.restarts):
            learner = MaskLearner(head, candidates, scores, train, config, class_debias=class_debias)
            if validation and not restart:  # the starting mask competes with those of the passes
                lowest = learner.measure(validation, best)
            generator = torch.Generator().manual_seed(seed * 100_003 + restart)
            bar = tqdm(range(config.epochs), desc=f"learning the mask {restart + 1}", unit="epoch", disable=None)
            for _ in bar:
                loss = learner.run_epoch(generator)
                mask = learner.chosen
                nll = learner.measure(validation, mask) if validation else math.inf
                if nll < lowest or not validation:
                    best, lowest = mask, nll
                bar.set_postfix(train=f"{loss:.4f}", validation=f"{nll:.4f}", best=f"{lowest:.4f}")
    finally:
        candidates.return_to_base()
    return candidates.mask_of(best)


def choose_learned(context: LocalizationContext) -> Mask:
    """Learn the mask among the best-scored `learn.multiple` x k entries."""
    path, config, learn = context.model, context.config, context.config.learn
    start = _start_scores(context)
    chosen = context.select_candidates(start, learn.multiple)
    candidates = Candidates(context.pair, path.weights, chosen, context.groups)
    scores = start.at(candidates.mask)
    train, validation = path.examples, context.validation
    if learn.data == "train+validation":
        train, validation = [*train, *validation], ()
    return learn_mask(
        path.head, candidates, scores, train, validation, learn, config.seed, class_debias=config.class_debias
    )


def _start_scores(context: LocalizationContext) -> Scores:
    """Return T * (attribution + w * |delta|), in nats: T points of dual averaging, and a prior from training itself.

    Attributions come from the few examples of the few-shot split; |delta| is the sum of the updates of all training
    steps, and less noisy. w = prior * a / d, where a and d are the medians of both over their own
    best k, so that with a prior of 1 both weigh the same.
    """
    learn, groups = context.config.learn, context.groups
    points = context.config.points if learn.start == "attribution" else 1  # scores hold the mean over them
    attributions = context.score(learn.start)
    magnitudes = attributions.magnitudes()
    medians = [scores.at(scores.select(groups)).median() for scores in (attributions, magnitudes)]
    weight = learn.prior * float(medians[0].clamp_min(0) / medians[1])
    return attributions.plus(magnitudes, weight, points)
