"""Errors that the toolkit raises on purpose.

::

    GraftError                    exit code 1, one clear line
    ├── ConfigError               a TASK file, recipe or option is wrong
    ├── DataError                 a dataset, label or split is wrong
    ├── CheckpointError           a checkpoint is missing, truncated, junk, or holds NaN
    │   └── MismatchError         two checkpoints, or a model and a checkpoint, do not belong together
    ├── PatchError
    │   ├── PatchFormatError      a patch file is not a valid format-1 file
    │   ├── PatchMismatchError    a patch does not fit this model: names, shapes, dtypes or base values differ
    │   ├── OverlapError          two patches want different values at the same coordinate
    │   └── RevertError           a graft cannot be taken off exactly now
    ├── BudgetError               a budget of nothing, or of more than there is
    ├── HubError                  the Hub cannot be reached, refuses, or gave other bytes than it announced
    ├── OutputError               an output exists already, or cannot be written
    ├── ProtectionError           a protected coordinate moved
    └── TrainingError             training broke off: loss not finite, out of memory

The message is one line for a person: what is wrong, where, and what to do. `exit_code` is what the
command line returns for it (pallets/click: the error class carries its exit code).
"""

from __future__ import annotations


class GraftError(Exception):
    """An input that the toolkit refuses, or a failure, told in one line."""

    exit_code = 1


class ConfigError(GraftError):
    """A TASK file, recipe or option is wrong."""


class DataError(GraftError):
    """A dataset, label or split is wrong."""


class CheckpointError(GraftError):
    """A checkpoint is missing, truncated, junk, or holds values that are not numbers."""


class MismatchError(CheckpointError):
    """Two checkpoints, or a model and a checkpoint, do not belong together."""


class PatchError(GraftError):
    """A patch is wrong, or cannot be used here."""


class PatchFormatError(PatchError):
    """A patch file is not a valid format-1 file."""


class PatchMismatchError(PatchError):
    """A patch does not fit this model: names, shapes, dtypes or base values differ."""


class OverlapError(PatchError):
    """Two patches want different values at the same coordinate."""


class RevertError(PatchError):
    """A graft cannot be taken off exactly in the model's present state."""


class BudgetError(GraftError):
    """A budget of nothing, or of more entries than there are."""


class HubError(GraftError):
    """The Hub cannot be reached, refuses, or gave other bytes than it announced."""


class OutputError(GraftError):
    """An output exists already, or cannot be written."""


class ProtectionError(GraftError):
    """A protected coordinate moved."""


class TrainingError(GraftError):
    """Training broke off: the loss is not finite, or memory ran out."""
