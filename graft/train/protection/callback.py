"""Protection within transformers' Trainer, and within trainers built on it, such as TRL's SFTTrainer."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from graft.errors import ProtectionError
from graft.train.protection.guard import How, Protection
from graft.train.protection.protected_set import Masks, ProtectedSet
from graft.train.protection.region import ProtectedRegion
from graft.train.protection.unoptimized import hash_of_protected


class ProtectionCallback(TrainerCallback):  # type: ignore[misc]
    """A Trainer callback that keeps core regions bitwise as they are while the Trainer trains.

    ::

        Trainer(model, args, train_dataset=rows, callbacks=[graft.ProtectionCallback([patch, mask])])

    Protected are the values that the model holds when the Trainer is made: a checkpoint to resume from must hold the
    same. They are checked before every checkpoint is written and at the end. After a step that is broken off, as by
    Ctrl-C, they are put back before the exception goes on.

    Args:
        masks, unprotect, how: as in `graft.protect`.

    Attributes:
        core: the protected set.
        protection: the latest one, in force while the Trainer trains.

    Raises:
        PatchMismatchError: when the Trainer is made: a region does not fit its model.
        ProtectionError: when training begins: the optimizer's tensors are not the model's, or the checkpoint that it
            resumes from holds other values; and where a protected entry moved.
    """

    def __init__(self, masks: Masks, *, unprotect: Masks = (), how: How = "auto") -> None:
        self.core, self.how = ProtectedSet.of(masks, unprotect), how
        self.protection: Protection | None = None
        self._matched_values, self._left_free = "", dict[str, str]()
        self._hashes: dict[str, str] = {}

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the hashes of the protected values."""
        self._matched_values = self.core.matched_values(kwargs["model"])
        self._left_free = self.core.left_free(kwargs["model"])
        self._hashes = {region.name: hash_of_protected(region) for region in self.core.regions(kwargs["model"])}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Protect the core regions."""
        model = kwargs["model"]
        if not self._matched_values:  # the callback was added after the Trainer was made
            self.on_init_end(args, state, control, model=model)
        if self.protection is not None:  # an earlier training broke off
            self.protection.release()
        regions = self.core.regions(model)
        self._refuse_other_values(regions)
        self.protection = Protection(
            model, kwargs["optimizer"], regions, self.how, self._matched_values, self._left_free
        )
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
        """Check, and end protection."""
        if self.protection is not None:
            self.protection.end()

    def _refuse_other_values(self, regions: list[ProtectedRegion]) -> None:
        present = {region.name: hash_of_protected(region) for region in regions}
        for name in {**self._hashes, **present}:  # a whole tensor of other values is no region any more
            if present.get(name) != self._hashes.get(name):
                raise ProtectionError(
                    f"tensor {name!r}: the protected values are not those that the model had when the Trainer "
                    "was made: a checkpoint to resume from must come from a training with the same protection"
                )
