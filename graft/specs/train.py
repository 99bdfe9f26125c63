"""The block `train` of a TASK file: fine-tuning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from graft.specs.block import Block
from graft.specs.localizable import LocalizableSpec
from graft.specs.ranges import Above, AtLeast, Between, Count, Seed, Within
from graft.specs.record import RecordSpec
from graft.specs.regularize import RegularizeSpec

Optimizer = Literal["sgd", "adamw"]
Precision = Literal["mixed", "pure", "full"]


@dataclass(frozen=True)
class TrainSpec(Block):
    """Fine-tuning. A TASK without this block trains few weights (`localizable`); one with it as the keys say.

    By default they are in the spirit of the published procedure: plain SGD, so that the skill is localizable.

    Attributes:
        optimizer: "sgd" without momentum, or "adamw".
        lr: learning rate of the first step.
        schedule: "linear" decay to 0 (a constant learning rate ends wherever the last noisy steps left the class
            balance, which misleads attribution), or "constant".
        warmup: share of the steps over which the learning rate rises to `lr`.
        epochs: passes over the training examples.
        steps: optimizer steps, in place of `epochs`.
        batch_size: examples per step.
        micro_batch_size: examples that go through the model at once, on each process: the gradients of a step's
            micro-batches are accumulated, and give the step of the whole batch up to rounding, and other draws of
            dropout; the whole batch where absent.
        precision: of a base in bfloat16 or float16 (one in float32 trains the same by all three): "mixed" holds fp32
            master weights and computes products in bfloat16, "full" computes products in fp32 too, "pure" does all in
            the base's dtype, which loses most small updates. The tuned weights are saved in the base's dtype, rounded
            to nearest, and validation measures them so (`graft.train.master_weights`).
        weight_decay: decoupled weight decay of AdamW, added to the gradient by SGD.
        l1: strength of the L1 proximal step towards the base (`graft.train.l1_proximal`), in units of the loss's
            gradient: weights whose gradient stays below it do not move, so that the skill gathers in few weights; 0 for
            none.
        clip: largest norm of the gradient.
        dropout: train with the model's dropout.
        average: end in the mean of the weights over the second half of the steps, which is steadier than the last
            ones, unless `stop_at` ends the training before.
        scope: which tensors train: layers, embeddings, heads, a sum such as layers+embeddings, all, or a regular
            expression.
        seed: seed of the order of examples and of dropout; the task's where absent.
        stop_at: accuracy on validation at which training stops early, 0 at its first check; the schedule stays that of
            the whole length.
        check_every: steps between checks of `stop_at`; only the end of each epoch where absent.
        localizable: train only few weights, in place of optimizer, lr, epochs and l1 above; it counts in epochs of its
            own, and goes with no `steps`.
        record: record while training which weights matter, and leave the record beside the tuned weights.
        regularize: make moving a weight cost in proportion to how much it matters.
    """

    optimizer: Optimizer = "sgd"
    lr: Annotated[float, Above(0)] = 5e-2
    schedule: Literal["linear", "constant"] = "linear"
    warmup: Annotated[float, Within(0, 0.9)] = 0.0
    epochs: Annotated[int, Above(0)] = 5
    steps: Annotated[int, Above(0)] | None = None
    batch_size: Annotated[int, Between(1, 2**31)] = 8
    micro_batch_size: Annotated[int, Between(1, 2**31)] | None = None
    precision: Precision = "mixed"
    weight_decay: Annotated[float, AtLeast(0)] = 0.0
    l1: Annotated[float, AtLeast(0)] = 0.0
    clip: Annotated[float, Above(0)] = 1.0
    dropout: bool = True
    average: bool = False
    scope: str = "all"
    seed: Seed | None = None
    stop_at: Annotated[float, Within(0, 1)] | None = None
    check_every: Count | None = None
    localizable: LocalizableSpec | None = None
    record: RecordSpec | None = None
    regularize: RegularizeSpec | None = None

    def __post_init__(self) -> None:
        """Refuse ranges, and keys that mean nothing beside each other.

        Raises:
            ValueError: naming the key and why.
        """
        super().__post_init__()
        if self.check_every is not None and self.stop_at is None:
            raise ValueError("check_every needs stop_at")
        if self.localizable is not None and (self.record is not None or self.regularize is not None):
            raise ValueError("localizable chooses what trains: it goes with neither record nor regularize")
        if self.localizable is not None and self.steps is not None:
            raise ValueError("steps would be ignored: localizable trains for epochs of its own (localizable.epochs)")
        try:
            re.compile(self.scope)
        except re.error as error:
            raise ValueError(f"scope {self.scope!r} is not a regular expression ({error})") from error

    @property
    def examples_at_once(self) -> int:
        """Number of examples in a forward and backward pass, at most."""
        return min(self.batch_size, self.micro_batch_size or self.batch_size)


# keys of how all weights train, in whose place few weights train as `localizable` says
REPLACED_BY_LOCALIZABLE = ("optimizer", "lr", "epochs", "l1")


def train_unless_told() -> TrainSpec:
    """Return how a TASK without a `train` block trains: few weights of the layers, where `graft localize` looks."""
    return TrainSpec(batch_size=16, scope="layers", localizable=LocalizableSpec(support="gradient"))


def once_told(config: TrainSpec) -> TrainSpec:
    """Return the train block that changes apply to: plain training in place of that of a TASK without a block."""
    return TrainSpec() if config == train_unless_told() else config
