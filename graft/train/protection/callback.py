"""Protection within transformers' Trainer, and within trainers built on it, such as TRL's SFTTrainer."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from graft.errors import ProtectionError
from graft.train.protection.guard import How, Protection
from graft.train.protection.protected_set import Masks, ProtectedSet
from graft.train.protection.region import Region
from graft.train.protection.unoptimized import hash_of_protected


class ProtectionCallback(TrainerCallback):  # type: ignore[misc]
    """Keeps core regions bitwise as they are while a Trainer trains.

    ::

        Trainer(model, args, train_dataset=rows, callbacks=[graft.ProtectionCallback([patch, mask])])

    What is protected is what the model holds when the Trainer is made: a checkpoint to resume from must hold the same.
    Checked before every checkpoint is written and at the end. A step that is broken off, as by Ctrl-C, is put
    right before that is heard of.

    Args:
        masks, unprotect, how: as in `graft.protect`.

    Attributes:
        core: what is to be kept.
        protection: the last one, in force while the Trainer trains.

    Raises:
        PatchMismatchError: when the Trainer is made: a region does not fit its model.
        ProtectionError: when training begins: the optimizer's tensors are not the model's, or the checkpoint that it
            resumes from holds other values; and where a protected entry moved.
    """

    def __init__(self, masks: Masks, *, unprotect: Masks = (), how: How = "auto") -> None:
        self.core, self.how = ProtectedSet.of(masks, unprotect), how
        self.protection: Protection | None = None
        self._matched_values = ""
        self._prints: dict[str, str] = {}

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note what there is to protect."""
        self._matched_values = self.core.matched_values(kwargs["model"])
        self._prints = {region.name: hash_of_protected(region) for region in self.core.regions(kwargs["model"])}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Protect it."""
        model = kwargs["model"]
        if not self._matched_values:  # added after the Trainer was made
            self.on_init_end(args, state, control, model=model)
        if self.protection is not None:  # a training that broke off
            self.protection.release()
        regions = self.core.regions(model)
        self._compare(regions)
        self.protection = Protection(model, kwargs["optimizer"], regions, self.how, self._matched_values)
        if state.is_world_process_zero:
            tqdm.write(self.protection.describe(), file=sys.stderr)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check before a checkpoint is written."""
        if self.protection is not None and control.should_save:
            self.protection.check()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check before a checkpoint is written."""
        self.on_step_end(args, state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check, and end it."""
        if self.protection is not None:
            self.protection.end()

    def _compare(self, regions: list[Region]) -> None:
        for region in regions:
            if hash_of_protected(region) != self._prints.get(region.name):
                raise ProtectionError(
                    f"tensor {region.name!r}: the protected values are not those that the model had when the Trainer "
                    "was made: a checkpoint to resume from must come from a training with the same protection"
                )
