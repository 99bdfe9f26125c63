"""The training step: forward and backward pass, clipping, update, and everything that holds weights in place."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from graft.errors import ConfigError, TrainingError
from graft.parallel.sharded import is_sharded, reshard
from graft.parallel.supported_wrappers import refuse_copied
from graft.specs.train import TrainSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.new_weights import find_new
from graft.tensors.out_of_memory import is_out_of_memory
from graft.tensors.scope import Scope
from graft.train.distribution import SharedLoss
from graft.train.importance.importance_weights import ImportanceWeights
from graft.train.importance.synaptic_intelligence import SynapticIntelligence
from graft.train.l1_proximal import L1Proximal
from graft.train.master_weights import MasterWeights
from graft.train.penalty import Penalty, open_penalty
from graft.train.protection.guard import How, Protection
from graft.train.protection.protected_set import ProtectedSet
from graft.train.protection.region import ProtectedRegion, freeze_protected
from graft.train.schedule import TrainingSchedule
from graft.train.weight_average import WeightAverage


@contextlib.contextmanager
def _advise_on_failure() -> Iterator[None]:
    """Turn memory that ran out, or a number that no weight can hold, into one line of advice, wherever in a step."""
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError) as error:
        if is_out_of_memory(error):
            advice = "lower train.micro_batch_size or max_length, or use --gradient-checkpointing"
            raise TrainingError(f"out of memory: {advice}") from error
        # torch refuses a learning rate that the weights' dtype cannot hold
        if any(words in str(error).lower() for words in ("overflow", "must be in range")):
            advice = "lower train.lr, or what else in the train block is that large"
            raise TrainingError(f"the step is not finite: {advice}") from error
        raise


@dataclass(frozen=True, eq=False)
class Stepper:
    """A training at hand, which takes one step after another.

    Attributes:
        head: over the model in training; the first of several.
        optimizer: of its weights in scope.
        schedule: of the whole training.
        loss: of a batch, divided among the head's processes.
        masters: the model's weights, which are saved and measured in the dtype that they were loaded in.
        proximal: the L1 proximal step towards the base; None without l1.
        protection: of the core regions; None without them.
        penalty: on moving important weights; None without one.
        recorder: of importance; None unless it is recorded.
        average: of the weights over the second half of the steps; None unless it is the result.
    """

    head: Head
    optimizer: torch.optim.Optimizer
    schedule: TrainingSchedule
    loss: SharedLoss
    masters: MasterWeights
    proximal: L1Proximal | None = None
    protection: Protection | None = None
    penalty: Penalty | None = None
    recorder: SynapticIntelligence | None = None
    average: WeightAverage | None = None

    @classmethod
    def start(
        cls,
        head: Head,
        schedule: TrainingSchedule,
        base: Path,
        core: ProtectedSet | None = None,
        importance: ImportanceWeights | None = None,
    ) -> Stepper:
        """Set up a fresh training: weights in scope, optimizer, and what holds others in place.

        Raises:
            ConfigError: the scope holds no tensor of the model, all of it is protected, its weights are partitioned by
                another engine, or sharded where importance is recorded or used.
            MismatchError: the importance is another model's.
            PatchMismatchError: a patch of the core does not fit.
        """
        config, checkpoint = schedule.config, Checkpoint.open(base)
        refuse_copied(head.model)
        if (config.record or config.regularize) and is_sharded(head.model):
            raise ConfigError("train.record and train.regularize need whole weights: use --parallel ddp or one process")
        masters = MasterWeights(head.model, config.precision, head.shards_of)
        set_trainable(head.model, config)
        regions = core.regions(head.model) if core else []
        freeze_protected(head.model, regions)
        optimizer = make_optimizer(head.model, config, fused=checkpoint.dtype != "F32")
        proximal = L1Proximal(head.model, checkpoint) if config.l1 else None
        penalty = None
        if config.regularize is not None:
            penalty = open_penalty(head.model, checkpoint, importance, config.regularize)
        protection = _guard(head.model, optimizer, core, regions, config) if core else None
        recorder = None
        if config.record is not None:
            added = None if penalty is None else penalty.added_gradients
            recorder = SynapticIntelligence(head.model, checkpoint, config.record.every, added)
        average = WeightAverage(_weights_of(optimizer), regions) if config.average else None
        loss = SharedLoss(head, masters, config.micro_batch_size)
        return cls(head, optimizer, schedule, loss, masters, proximal, protection, penalty, recorder, average)

    @_advise_on_failure()
    def take(self, head: Head, batch: Sequence[Example], step: int) -> float:
        """Take one step, forward, backward and update, and return the loss in nats.

        Args:
            head: over the model.
            batch: of the head's task.
            step: from 0.

        Raises:
            TrainingError: the loss is not finite (the weights are as before the step), or memory ran out.
        """
        loss = self._backward(head, batch)
        learning_rate, config = self.schedule.learning_rate(step), self.schedule.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if self.recorder is not None:
            self.recorder.before_step(step)
        if self.penalty is not None:
            self.penalty.before_step()
        norm = torch.nn.utils.clip_grad_norm_(_weights_of(self.optimizer), config.clip)
        self.optimizer.step()
        if self.proximal is not None:
            self.proximal.step(learning_rate * config.l1, self.optimizer)
        if self.penalty is not None:
            self.penalty.after_step(learning_rate, self.optimizer)
        if self.protection is not None and (self.proximal is not None or self.penalty is not None):
            self.protection.restore()  # both write to weights after the optimizer's step, which alone is guarded
        if self.recorder is not None:
            self.recorder.record(step, min(1.0, config.clip / (float(norm) + 1e-6)))  # as clip_grad_norm_ does
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None and self.schedule.averages(step):
            self.average.add()
        return loss

    def finish(self) -> None:
        """End a training that has taken all its steps: its weights become their mean, where that is the result."""
        if self.average is not None:
            self.average.write()
            reshard(self.head.model)

    def _backward(self, head: Head, batch: Sequence[Example]) -> float:
        loss = self.loss.backward(head, batch)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value}: lower train.lr")
        return value


def _weights_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _guard(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    core: ProtectedSet,
    regions: list[ProtectedRegion],
    config: TrainSpec,
) -> Protection:
    how: How = "restore" if config.l1 or config.regularize else "auto"  # both move weights outside the optimizer
    protection = Protection(model, optimizer, regions, how, core.matched_values(model), core.left_free(model))
    if core.include:
        tqdm.write(protection.describe(), file=sys.stderr)
    return protection


def set_trainable(model: torch.nn.Module, config: TrainSpec) -> None:
    """Make the weights in scope, and new ones such as those of a new head, the only ones that take gradients.

    Raises:
        ConfigError: the scope holds no tensor of the model.
    """
    scope, new = Scope(config.scope), find_new(model)
    for name, weight in model.named_parameters():
        weight.requires_grad_(scope.holds(name) or name in new)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ConfigError(f"train.scope {config.scope!r} holds no tensor of the model")


def make_optimizer(model: torch.nn.Module, config: TrainSpec, *, fused: bool = False) -> torch.optim.Optimizer:
    """Make the optimizer of the weights that take gradients.

    AdamW's fused form takes a sixth of the time on the CPU, which is a third of a language model's step, and rounds
    otherwise: bases in fp32 keep the form that their results were measured with.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.AdamW(weights, lr=config.lr, weight_decay=config.weight_decay, fused=fused or None)
