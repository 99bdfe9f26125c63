"""What happens at each step of training: which weights move, how far, in what order of examples."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from graft.errors import ConfigError, TrainingError
from graft.parallel.sharded import is_sharded
from graft.parallel.supported_wrappers import refuse_copied
from graft.specs.train import TrainSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.out_of_memory import is_out_of_memory
from graft.tensors.scope import Scope
from graft.train.distribution import SharedLoss
from graft.train.importance.importance_weights import ImportanceWeights
from graft.train.importance.synaptic_intelligence import SynapticIntelligence
from graft.train.l1_proximal import L1Proximal
from graft.train.penalty import Penalty, open_penalty
from graft.train.protection.guard import How, Protection
from graft.train.protection.protected_set import ProtectedSet
from graft.train.protection.region import ProtectedRegion, freeze_wholes

_HEADS = ("classifier", "score")  # names that transformers gives a new classification layer


@dataclass(frozen=True)
class Batch:
    """What one step trains on: positions among the training examples of one task."""

    step: int
    task: int
    positions: list[int]


@dataclass(frozen=True)
class Plan:
    """The steps of a training.

    Attributes:
        sizes: training examples of each task.
        config: how to train.
        seed: of the order of examples.
    """

    sizes: tuple[int, ...]
    config: TrainSpec
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches that cover every example once."""
        return sum(-(-size // self.config.batch_size) for size in self.sizes)

    @property
    def steps(self) -> int:
        """All steps."""
        return self.config.steps or self.config.epochs * self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs begun."""
        return -(-self.steps // self.steps_per_epoch)

    def batches(self, epoch: int) -> list[Batch]:
        """The batches of one epoch, by seed and epoch alone, so that resuming meets the same.

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
        """Whether validation is looked at within an epoch, after so many steps."""
        every = self.config.check_every
        return every is not None and steps % every == 0

    def reaches(self, accuracy: float) -> bool:
        """Whether an accuracy on validation ends the training."""
        return self.config.stop_at is not None and accuracy >= self.config.stop_at

    def rate(self, step: int) -> float:
        """Learning rate of a step: lr, or lr * (1 - step / steps)."""
        return self.config.lr * (1 - step / self.steps if self.config.schedule == "linear" else 1)


@contextlib.contextmanager
def _saying_what_to_lower() -> Iterator[None]:
    """One line for memory that ran out, or a number that no weight can hold, wherever in a step."""
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError) as error:
        if is_out_of_memory(error):
            advice = "lower train.batch_size or max_length, or use --dtype bfloat16"
            raise TrainingError(f"out of memory: {advice}; the last good epoch is kept for --resume") from error
        if any(
            words in str(error).lower() for words in ("overflow", "must be in range")
        ):  # torch refuses a rate that the weights' dtype cannot hold
            advice = "lower train.lr, or what else in the train block is that large"
            raise TrainingError(
                f"the step is not finite: {advice}; the last good epoch is kept for --resume"
            ) from error
        raise


@dataclass(frozen=True, eq=False)
class Stepper:
    """What takes a step.

    Attributes:
        head: with the model in training; of several over it, the first.
        optimizer: over its weights in scope.
        plan: of the whole training.
        loss: of a batch, shared out to the head's processes.
        pull: towards the base, where there is one.
        protection: of what must not move, where there is something.
        penalty: on moving what matters, where there is one.
        recorder: of what matters, where it is recorded.
    """

    head: Head
    optimizer: torch.optim.Optimizer
    plan: Plan
    loss: SharedLoss
    pull: L1Proximal | None = None
    protection: Protection | None = None
    penalty: Penalty | None = None
    recorder: SynapticIntelligence | None = None

    @classmethod
    def start(
        cls,
        head: Head,
        plan: Plan,
        base: Path,
        core: ProtectedSet | None = None,
        importance: ImportanceWeights | None = None,
    ) -> Stepper:
        """The stepper of a fresh training, with its core protected, and what matters held, where there are such.

        Raises:
            ConfigError: the scope holds no tensor of the model, all of it is protected, its weights are partitioned by
                another engine, or shared out where importance is recorded or gone by.
            MismatchError: what is to be held is another model's.
            PatchMismatchError: a patch of the core does not fit.
        """
        config, checkpoint = plan.config, Checkpoint.open(base)
        refuse_copied(head.model)
        if (config.record or config.regularize) and is_sharded(head.model):
            raise ConfigError("train.record and train.regularize need whole weights: use --parallel ddp or one process")
        set_trainable(head.model, config)
        regions = core.regions(head.model) if core else []
        freeze_wholes(head.model, regions)
        optimizer = make_optimizer(head.model, config)
        pull = L1Proximal(head.model, checkpoint) if config.l1 else None
        penalty = (
            None if config.regularize is None else open_penalty(head.model, checkpoint, importance, config.regularize)
        )
        protection = _guard(head.model, optimizer, core, regions, config) if core else None
        recorder = None if config.record is None else SynapticIntelligence(head.model, checkpoint, config.record.every)
        return cls(head, optimizer, plan, SharedLoss(head), pull, protection, penalty, recorder)

    @_saying_what_to_lower()
    def take(self, head: Head, batch: Sequence[Example], step: int) -> float:
        """One forward, backward and update; the loss in nats.

        Args:
            head: over the model.
            batch: of the head's task.
            step: from 0.

        Raises:
            TrainingError: the loss is not finite (the weights are as before the step), or memory ran out.
        """
        loss = self._backward(head, batch)
        rate, config = self.plan.rate(step), self.plan.config
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        if self.penalty is not None:
            self.penalty.before_step()
        norm = torch.nn.utils.clip_grad_norm_(weights, config.clip)
        self.optimizer.step()
        if self.pull is not None:
            self.pull.step(rate * config.l1, self.optimizer)
        if self.penalty is not None:
            self.penalty.after_step(rate, self.optimizer)
        if self.protection is not None and (self.pull is not None or self.penalty is not None):
            self.protection.restore()
        if self.recorder is not None:
            self.recorder.record(step, min(1.0, config.clip / (float(norm) + 1e-6)))  # as clip_grad_norm_ does
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _backward(self, head: Head, batch: Sequence[Example]) -> float:
        loss = self.loss.backward(head, batch)
        value = loss.item()
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {value}: lower train.lr; the last good epoch is kept for --resume")
        return value


def _guard(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    core: ProtectedSet,
    regions: list[ProtectedRegion],
    config: TrainSpec,
) -> Protection:
    how: How = "restore" if config.l1 or config.regularize else "auto"  # these move weights beside the optimizer
    protection = Protection(model, optimizer, regions, how, core.matched_values(model))
    if core.include:
        tqdm.write(protection.describe(), file=sys.stderr)
    return protection


def set_trainable(model: torch.nn.Module, config: TrainSpec) -> None:
    """Make the weights in scope, and those of a new head, the only ones that take gradients.

    Raises:
        ConfigError: the scope holds no tensor of the model.
    """
    scope = Scope(config.scope)
    for name, weight in model.named_parameters():
        weight.requires_grad_(scope.holds(name) or name.startswith(_HEADS))  # a new head always trains
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ConfigError(f"train.scope {config.scope!r} holds no tensor of the model")


def make_optimizer(model: torch.nn.Module, config: TrainSpec) -> torch.optim.Optimizer:
    """The optimizer over the weights that take gradients."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.AdamW(weights, lr=config.lr, weight_decay=config.weight_decay)
