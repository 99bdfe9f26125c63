"""Fine-tuning that puts the skill into few weights: k of them are found, then only they train, from the base.

They are found in one of two ways:

- "pull": fine-tune by SGD with the L1 proximal step towards the base (`graft.train.l1_proximal`), which leaves few
  weights moved, and take the k largest |tuned - base|.
- "gradient": take the k largest |gradient| of the loss at the base (`graft.train.gradient_support`), without any
  training. What trains then is steadied: the learning rate warms up, there is no dropout, and the result is the mean
  over the second half of the steps (`graft.train.weight_average`).

The k train by AdamW, at a higher learning rate than all weights would. The tuned model differs from the base in at most
k entries, so that its patch is the whole difference and the graft is the tuned model. Starting again with the mask
alone is what Lottery Ticket Sparse Fine-Tuning does (Ansell et al. 2022, arXiv 2110.07560), which finds its mask by
|tuned - base| of a plain training.

Measured on sst2, 256 per class, seed 0, k = 2,271 of 22.7M, on 1,500 training rows that no seed draws: AdamW (lr 5e-5,
3 epochs) .818 (ECE .136), a patch of its k largest |delta| recovering .01 of the gain; this way .813 (.066) and all of
it. The proximal step with AdamW itself, in its own metric, left .797 and .27 (l1 1e-4), .789 and .76 (l1 3e-4). More in
artifacts/LOG.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from graft.errors import BudgetError
from graft.localize.budget import resolve_budget
from graft.patch.mask import Mask
from graft.specs.localizable import LocalizableSpec
from graft.specs.train import TrainSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import as_bits, take
from graft.tensors.scope import Scope
from graft.train.protection.protected_set import ProtectedSet, count_free
from graft.train.trainable_weights import find_trainable

WARMUP = 0.1  # share of the steps


@dataclass(frozen=True)
class Changes:
    """How many of the few entries that trained differ from the base's as they are saved.

    Attributes:
        trained: entries that could move.
        changed: those with other bits than the base's; some may round back to them.
    """

    trained: int
    changed: int


def count_changes(model: torch.nn.Module, base: Checkpoint, mask: Mask) -> Changes:
    """Count the changed entries among those of a mask, in a model as it is saved; collective where it is sharded."""
    weights, changed = find_trainable(model, base.names), 0
    for name in mask:
        indices = torch.tensor(mask[name])
        present = take(weights[name], indices).cpu()
        changed += int((as_bits(present) != as_bits(take(base.read(name), indices).to(present.dtype))).sum())
    return Changes(len(mask), changed)


def configure_proximal(config: TrainSpec, localizable: LocalizableSpec) -> TrainSpec:
    """Return the train block of the training that finds the weights: to its end, wherever that of these stops."""
    return dataclasses.replace(
        config,
        optimizer="sgd",
        lr=localizable.proximal_lr,
        epochs=localizable.proximal_epochs,
        steps=None,
        l1=localizable.proximal_l1,
        weight_decay=0.0,
        stop_at=None,
        check_every=None,
        localizable=None,
    )


def configure_restart(config: TrainSpec, localizable: LocalizableSpec, k: int) -> TrainSpec:
    """Return the train block of the training of these k weights alone."""
    rate, epochs = localizable.rate_of(k), localizable.epochs
    few = dataclasses.replace(config, optimizer="adamw", lr=rate, epochs=epochs, steps=None, l1=0.0, localizable=None)
    if localizable.support == "pull":
        return few
    return dataclasses.replace(few, warmup=config.warmup or WARMUP, dropout=False, average=True)


def check_density(base: Checkpoint, config: TrainSpec, core: ProtectedSet) -> None:
    """Refuse, before any training, a density that keeps no weight, or more than may move.

    Raises:
        BudgetError: the density is refused; the number that may move is named.
    """
    if config.localizable is None:
        return
    density = config.localizable.density
    k = resolve_budget(base.n_parameters, density, None)
    free = sum(count_free(base, Scope(config.scope).names(base), core).values())
    if k > free:
        raise BudgetError(
            f"localizable: a density of {density:g} is {k:,} of {base.n_parameters:,} weights, but only {free:,} in "
            f"scope {config.scope!r} may move: lower it or widen train.scope"
        )
