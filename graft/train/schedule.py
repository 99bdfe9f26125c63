"""The schedule of a training: its batches in their order, learning rates, and when it stops."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graft.specs.train import TrainSpec


@dataclass(frozen=True)
class Batch:
    """The examples of one step: their positions among the training examples of one task."""

    step: int
    task: int
    positions: list[int]


@dataclass(frozen=True)
class TrainingSchedule:
    """The steps of a training, their batches and learning rates.

    Attributes:
        sizes: training examples of each task.
        config: the train block.
        seed: determines the order of examples.
    """

    sizes: tuple[int, ...]
    config: TrainSpec
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that cover every example once."""
        return sum(-(-size // self.config.batch_size) for size in self.sizes)

    @property
    def steps(self) -> int:
        """Number of steps in all."""
        return self.config.steps or self.config.epochs * self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Number of epochs begun, the last perhaps cut short by `steps`."""
        return -(-self.steps // self.steps_per_epoch)

    def batches(self, epoch: int) -> list[Batch]:
        """Draw the batches of one epoch by seed and epoch alone, so that a resumed training gets the same.

        A batch is of one task; those of several come in random order (as in MT-DNN, arXiv 1901.11504).
        """
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        size, first = self.config.batch_size, epoch * self.steps_per_epoch
        parts = []
        for task, n in enumerate(self.sizes):
            order = torch.randperm(n, generator=generator).tolist()
            parts += [(task, order[start : start + size]) for start in range(0, n, size)]
        if len(self.sizes) > 1:
            parts = [parts[i] for i in torch.randperm(len(parts), generator=generator).tolist()]
        return [Batch(step, *part) for step, part in enumerate(parts, start=first)][: self.steps - first]

    def checks_after(self, steps: int) -> bool:
        """Return whether validation is measured within an epoch, after so many steps, unless they are the last."""
        every = self.config.check_every
        return every is not None and steps % every == 0 and steps < self.steps

    def reaches(self, accuracy: float) -> bool:
        """Return whether an accuracy on validation ends the training."""
        return self.config.stop_at is not None and accuracy >= self.config.stop_at

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: lr, or lr * (1 - step / steps); with a warm-up as it says.

        With t = (step + 1/2) / steps it rises as t / warmup, and from there on falls as (1 - t) / (1 - warmup).
        """
        lr, warmup, linear = self.config.lr, self.config.warmup, self.config.schedule == "linear"
        if not warmup:
            return lr * (1 - step / self.steps if linear else 1)
        t = (step + 0.5) / self.steps
        return lr * min(t / warmup, (1 - t) / (1 - warmup) if linear else 1)

    def averages(self, step: int) -> bool:
        """Return whether the weights after a step are among those whose mean is the result."""
        return self.config.average and step + 1 > self.steps / 2
