"""A mask learned at an exact budget, by stochastic dual averaging through the hard top k.

Candidates are the `multiple` x k entries with the best scores to start with: s_i is the sum of entry i's attributions
over the points of their path, plus a prior in proportion to |delta_i| (`graft.localize.methods`). At each step, on a
minibatch B of the n training examples,

    m = top k of s (hard, exactly k, ties to the earlier coordinate),    theta = base + m * delta,
    s <- s - lr * |B| / n * g * delta,                                   g = gradient of B's mean loss at theta,

so that a pass over the examples weighs as much as `lr` more points of the path. It is the straight-through estimator
(Bengio et al. 2013, arXiv 1308.3432) with the identity in place of the top k's derivative: as in arXiv 2302.06600 the
gradient of a mask entry is g * delta, but taken at the very graft that will be used, never between base and tuned.
Summing is what Nesterov's dual averaging does (2009, Mathematical Programming 120), and the start is its own first
points, so s keeps its unit, nats, and the loss's scale drops out of the order. Dividing by the gradient's size as Adam
does gives noise a vote: on sst2 it fitted no better and generalised worse (artifacts/LOG.md). As in attribution, class
offsets are set aside (`graft.localize.offsets`), here fitted at each step on the latest logits of all examples: without
them the mask swings from one class to the other.

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
from graft.localize.candidates import Candidates, CandidateSum
from graft.localize.gradients import backpropagate, pouring
from graft.localize.offsets import RunningOffsets
from graft.patch.mask import Mask
from graft.specs.localize import LearnSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head


class MaskLearner:
    """The scores of candidates in training.

    Attributes:
        scores: (n,) fp32, nats.

    Args:
        head: the model at hand, on which the candidates live.
        candidates: what may be kept.
        scores: (n,) fp32, where to start.
        examples: to learn from.
        config: rate, batch size.
        centred: set class offsets aside, where the head has classes.
    """

    def __init__(
        self,
        head: Head,
        candidates: Candidates,
        scores: torch.Tensor,
        examples: Sequence[Example],
        config: LearnSpec,
        *,
        centred: bool = True,
    ) -> None:
        self.head = head
        self.candidates = candidates
        self.examples = examples
        self.config = config
        self.scores = scores.clone()
        self._offsets = self._start_offsets() if centred and head.has_classes else None

    @property
    def kept(self) -> torch.Tensor:
        """(n,) bool: the present mask."""
        return self.candidates.choose(self.scores)

    def run_epoch(self, generator: torch.Generator) -> float:
        """One pass over the examples in random order; the mean loss in nats.

        Raises:
            CheckpointError: a loss is not finite.
        """
        n, size, total = len(self.examples), self.config.batch_size, 0.0
        order = torch.randperm(n, generator=generator).tolist()
        sink = CandidateSum(self.candidates, self.head.ranks)
        with pouring(self.head.model, self.candidates.weights, sink):
            for start in range(0, n, size):
                places = order[start : start + size]
                self.candidates.write(self.kept)
                total += self._step(places, sink) * len(places)
                weight = self.config.lr * len(places) / n
                self.scores.addcmul_(sink.drain(), self.candidates.movement, value=-weight)
        return total / n

    def measure(self, examples: Sequence[Example], kept: torch.Tensor) -> float:
        """Mean NLL in nats of a mask."""
        self.candidates.write(kept)
        with torch.no_grad():
            size = self.config.batch_size
            batches = [examples[start : start + size] for start in range(0, len(examples), size)]
            sums = [self.head.loss(batch).item() * len(batch) for batch, _ in self.head.ranks.deal(batches)]
            return sum(self.head.ranks.collect(sums, len(batches))) / len(examples)

    def _step(self, places: list[int], sink: CandidateSum) -> float:
        """The gradient of some examples' mean loss, in micro-batches that are dealt out to processes; that loss."""
        ranks, offsets, losses = self.head.ranks, self._offsets, []
        size = self.config.micro_batch or -(-len(places) // ranks.world)
        parts = [places[start : start + size] for start in range(0, len(places), size)]
        if offsets is not None:
            offsets.fit()
        for part, counts in ranks.deal(parts):
            loss = self._loss(part) * (len(part) / len(places))
            losses.append(loss.item())
            backpropagate(self.head, loss, counts)
            sink.end_batch(counts=counts)
        if offsets is not None:
            offsets.share(parts, ranks)
        return sum(ranks.collect(losses, len(parts)))

    def _loss(self, places: list[int]) -> torch.Tensor:
        batch, offsets = [self.examples[i] for i in places], self._offsets
        loss = self.head.loss(batch) if offsets is None else offsets.loss(places, self.head.logits(batch))
        if not torch.isfinite(loss):
            raise CheckpointError(f"the loss is {loss.item()} at a graft of {int(self.kept.sum()):,} entries")
        return loss

    def _start_offsets(self) -> RunningOffsets:
        self.candidates.write(self.kept)
        logits = self.head.predict(self.examples, batch_size=self.config.batch_size, label="class offsets")
        return RunningOffsets(logits, torch.tensor([example.label for example in self.examples]))


def learn_mask(
    head: Head,
    candidates: Candidates,
    scores: torch.Tensor,
    train: Sequence[Example],
    validation: Sequence[Example],
    config: LearnSpec,
    seed: int,
    *,
    centred: bool = True,
) -> Mask:
    """The mask of exactly k candidates with the lowest validation NLL that was met; the last without validation.

    The live model holds the base's values again afterwards, also after an error.

    Raises:
        CheckpointError: a loss is not finite.
    """
    head.model.eval()
    validation = sorted(validation, key=lambda example: sum(map(len, example.texts)))  # saves padding
    best, lowest = candidates.choose(scores), math.inf
    try:
        for restart in range(config.restarts):
            learner = MaskLearner(head, candidates, scores, train, config, centred=centred)
            if validation and not restart:
                lowest = learner.measure(validation, best)
            generator = torch.Generator().manual_seed(seed * 100_003 + restart)
            bar = tqdm(range(config.epochs), desc=f"learning the mask {restart + 1}", unit="epoch", disable=None)
            for _ in bar:
                loss = learner.run_epoch(generator)
                kept = learner.kept
                found = learner.measure(validation, kept) if validation else math.inf
                if found < lowest or not validation:
                    best, lowest = kept, found
                bar.set_postfix(train=f"{loss:.4f}", validation=f"{found:.4f}", best=f"{lowest:.4f}")
    finally:
        candidates.return_to_base()
    return candidates.mask_of(best)
