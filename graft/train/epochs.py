"""The epochs of a training: its steps, validation after each, and the state that lets it go on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from tqdm import tqdm

from graft.errors import TrainingError
from graft.train.multitask_data import MultiTaskData
from graft.train.stepper import Stepper
from graft.train.training_state import TrainingState


@dataclass(frozen=True)
class Epoch:
    """A pass over the training examples, or the part of it until training stopped.

    Attributes:
        loss: mean over its steps, nats.
        validation_accuracy: at its end.
    """

    loss: float
    validation_accuracy: float


def run_epochs(stepper: Stepper, data: MultiTaskData, state: TrainingState) -> tuple[list[Epoch], int]:
    """Run all epochs, or as many as it takes to reach `stop_at`; return them and the number of steps taken."""
    head, schedule = stepper.head, stepper.schedule
    torch.manual_seed(schedule.seed + head.ranks.rank)  # of dropout
    epochs = [
        Epoch(*metrics) for metrics in state.load(head.model, stepper.optimizer, stepper.recorder, stepper.average)
    ]
    done, steps = len(epochs), 0
    with tqdm(initial=done, total=schedule.epochs, desc="train", unit="epoch", disable=None) as bar:
        for number in range(done, schedule.epochs):
            try:
                epoch, steps = train_epoch(stepper, data, number)
            except TrainingError as error:  # before the first epoch's end there is no state to go on from
                kept = "; the last good epoch is kept for --resume" if epochs else ""
                raise TrainingError(f"{error}{kept}") from error
            epochs.append(epoch)
            if stepper.protection is not None:
                stepper.protection.check()
            bar.set_postfix(loss=f"{epoch.loss:.3f}", validation=f"{epoch.validation_accuracy:.3f}")
            bar.update()
            if schedule.reaches(epoch.validation_accuracy):
                break
            if number + 1 < schedule.epochs:
                metrics = [dataclasses.astuple(epoch) for epoch in epochs]
                state.save(head.model, stepper.optimizer, metrics, stepper.recorder, stepper.average)
    return epochs, steps


def train_epoch(stepper: Stepper, data: MultiTaskData, number: int) -> tuple[Epoch, int]:
    """Run one epoch, or less where a check reaches `stop_at`; return it and the number of steps since the start."""
    schedule, losses, steps = stepper.schedule, [], 0
    stepper.head.model.train(schedule.config.dropout)
    for batch in tqdm(schedule.batches(number), desc="epoch", unit="step", disable=None, leave=False):
        examples = [data.train[batch.task][i] for i in batch.positions]
        losses.append(stepper.take(data.heads[batch.task], examples, batch.step))
        steps = batch.step + 1
        if schedule.checks_after(steps) and schedule.reaches(accuracy := _accuracy(stepper, data)):
            return Epoch(sum(losses) / len(losses), accuracy), steps
    if steps == schedule.steps:
        stepper.finish()
    return Epoch(sum(losses) / len(losses), _accuracy(stepper, data)), steps


def _accuracy(stepper: Stepper, data: MultiTaskData) -> float:
    with stepper.masters.rounded():
        accuracy = data.validate()
    if math.isnan(accuracy):  # the last step may have diverged without a loss that shows it
        raise TrainingError("the model's outputs are not finite: lower train.lr")
    return accuracy
