"""A fine-tuning as another tool's file tells it: functions from the base's tensors to the tuned ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from graft.errors import MismatchError

# the base's tensor -> the tuned one, of its dtype and shape, or with more rows where the vocabulary grew
Edit = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class ImportedWeights:
    """What a file of another tool does to a base, not computed yet, so that one tensor at a time can be.

    Names are the file's own: a live model's, or a checkpoint's.

    Attributes:
        edits: tensor name -> what becomes of the base's tensor.
        whole: tensor name -> function that gives a tensor which takes the place of the base's, or which it lacks.
        config: what the patch will record of the file.
        parted: names of `whole` that the tool holds as modules of their own, so that they part from what the base ties
            them with.
    """

    edits: Mapping[str, Edit] = field(default_factory=dict)
    whole: Mapping[str, Callable[[], torch.Tensor]] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    parted: frozenset[str] = frozenset()


def replace_whole(name: str, read: Callable[[], torch.Tensor]) -> Edit:
    """An edit that puts a tensor, which may have more rows, in the place of the base's, rounded to its dtype."""

    def edit(base: torch.Tensor) -> torch.Tensor:
        tensor = read()
        if tensor.ndim != base.ndim or tensor.shape[1:] != base.shape[1:] or len(tensor) < len(base):
            check_shape(name, tensor.shape, base.shape)
        return tensor.to(base.dtype)

    return edit


def check_shape(name: str, found: tuple[int, ...], base: tuple[int, ...]) -> None:
    """Refuse what is not of the base's shape.

    Raises:
        MismatchError: naming the tensor.
    """
    if tuple(found) != tuple(base):
        raise MismatchError(f"tensor {name!r} has shape {list(base)} in the base, {list(found)} in the imported file")
