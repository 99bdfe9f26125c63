"""ImportedWeights: the fine-tuning in another tool's file, as functions from the base's tensors to tuned ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from graft.errors import MismatchError

# the base's tensor -> the tuned one of its shape, or with more rows where the vocabulary grew; of its dtype, or, where
# the file has the whole tensor, of the file's, from which one tells what tuning moved from what rounding did
Edit = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class ImportedWeights:
    """Changes that a file of another tool makes to a base, computed later, one tensor at a time.

    Names are those in the file: a live model's, or a checkpoint's.

    Attributes:
        edits: tensor name -> function from the base's tensor to the tuned one.
        whole: tensor name -> function that returns a tensor which replaces the base's, or which the base lacks.
        config: settings of the file that the patch will record.
        untied: names in `whole` that the tool keeps as modules of their own, and so unties from the tensors with which
            the base ties them.
    """

    edits: Mapping[str, Edit] = field(default_factory=dict)
    whole: Mapping[str, Callable[[], torch.Tensor]] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    untied: frozenset[str] = frozenset()


def replace_whole(name: str, read: Callable[[], torch.Tensor]) -> Edit:
    """Make an edit that puts a tensor, which may have more rows, in the base's place, in the dtype that it has."""

    def edit(base: torch.Tensor) -> torch.Tensor:
        tensor = read()
        if tensor.ndim != base.ndim or tensor.shape[1:] != base.shape[1:] or tensor.shape[:1] < base.shape[:1]:
            check_shape(name, tensor.shape, base.shape)
        return tensor

    return edit


def check_shape(name: str, shape: tuple[int, ...], base: tuple[int, ...]) -> None:
    """Refuse a tensor that is not of the base's shape.

    Raises:
        MismatchError: it is of another shape; the tensor is named.
    """
    if tuple(shape) != tuple(base):
        raise MismatchError(f"tensor {name!r} has shape {list(base)} in the base, {list(shape)} in the imported file")
