"""Marks of protection in an optimizer's saved state, whose compact moments belong to certain entries."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graft.errors import ProtectionError
from graft.train.protection.region import ProtectedRegion

KEY = "graft_protection"  # in the first parameter group, which every loader of a state copies


class SavedState:
    """The mark of a protection: put on the optimizer's `state_dict`, and required of a state that it loads.

    Args:
        optimizer: under protection.
        regions: the protected coordinates.
        compact: those regions whose tensors are trained compactly.

    Raises:
        ProtectionError: it holds a state already that was made under another protection.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        regions: Sequence[ProtectedRegion],
        compact: Sequence[ProtectedRegion],
        elementwise: bool,
    ) -> None:
        self._regions = {id(region.tensor): region for region in regions}
        self._compact = {id(region.tensor) for region in compact}
        self._optimizer, self._elementwise = optimizer, elementwise
        if optimizer.param_groups and optimizer.state:
            moments = [optimizer.state.get(weight, {}) for weight in self._weights()]
            self._require_same(optimizer.param_groups[0].pop(KEY, None), moments)
        self.hooks = [
            optimizer.register_state_dict_post_hook(self._mark),
            optimizer.register_load_state_dict_pre_hook(self._check),
            optimizer.register_load_state_dict_post_hook(_unmark),
        ]

    def _mark(self, _: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        if self._regions and state["param_groups"]:
            state["param_groups"][0][KEY] = {"regions": self._digest, "compact": self._compact_numbers}

    def _check(self, _: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        groups = state["param_groups"]
        moments = [state["state"].get(number, {}) for group in groups for number in group["params"]]
        self._require_same(groups[0].get(KEY) if groups else None, moments)

    def _require_same(self, mark: Mapping[str, Any] | None, moments: Sequence[Mapping[str, Any]]) -> None:
        if mark is None:
            for weight, of_weight in zip(self._weights(), moments, strict=False):
                if self._elementwise and id(weight) in self._regions:
                    _refuse_compact(of_weight, self._regions[id(weight)])
        elif mark["regions"] != self._digest or not set(mark["compact"]) <= set(self._compact_numbers):
            raise ProtectionError(
                "the optimizer's state was saved under another protection: its moments belong to other entries; "
                "protect what was protected then, in the same way, or begin with a new state"
            )

    @property
    def _compact_numbers(self) -> list[int]:
        """Numbers of the optimizer's weights that are trained compactly."""
        return [number for number, weight in enumerate(self._weights()) if id(weight) in self._compact]

    @functools.cached_property
    def _digest(self) -> str:
        """64 hex digits over the regions, by numbers of the optimizer's weights: names differ between wrappers."""
        digest = hashlib.sha256()
        for number, weight in enumerate(self._weights()):
            if (region := self._regions.get(id(weight))) is not None:
                digest.update(f"{number} {tuple(weight.shape)} {region.inverted}\n".encode())
                digest.update(region.indices.astype("<i8").tobytes())
        return digest.hexdigest()

    def _weights(self) -> list[torch.Tensor]:
        return [weight for group in self._optimizer.param_groups for weight in group["params"]]


def _unmark(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups[:1]:
        group.pop(KEY, None)


def _refuse_compact(moments: Mapping[str, Any], region: ProtectedRegion) -> None:
    for value in moments.values():
        if torch.is_tensor(value) and value.numel() > 1 and value.shape != region.tensor.shape:
            raise ProtectionError(
                f"tensor {region.name!r}: the optimizer's state has {value.numel():,} moments for its "
                f"{region.tensor.numel():,} entries and does not say for which: begin with a new state"
            )
