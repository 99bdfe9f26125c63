"""An optimizer's saved state says under which protection it was made: compact moments belong to certain entries."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graft.errors import ProtectionError
from graft.train.protection.region import Region

KEY = "graft_protection"  # in the first parameter group: what stands there comes along wherever a state is loaded


class SavedState:
    """Marks what `state_dict` gives while protection is in force, and refuses to load what has another mark.

    Args:
        optimizer: under protection.
        regions: what is protected.
        compact: those of them that are trained compactly.

    Raises:
        ProtectionError: it holds a state already that was made under another.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, regions: Sequence[Region], compact: Sequence[Region], elementwise: bool
    ) -> None:
        self._regions = {id(region.tensor): region for region in regions}
        self._compact = {id(region.tensor) for region in compact}
        self._optimizer, self._elementwise = optimizer, elementwise
        if optimizer.param_groups and optimizer.state:
            moments = [optimizer.state.get(weight, {}) for weight in self._weights()]
            self._compare(optimizer.param_groups[0].pop(KEY, None), moments)
        self.hooks = [
            optimizer.register_state_dict_post_hook(self._mark),
            optimizer.register_load_state_dict_pre_hook(self._check),
            optimizer.register_load_state_dict_post_hook(_unmark),
        ]

    def _mark(self, _: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        if self._regions and state["param_groups"]:
            state["param_groups"][0][KEY] = {"regions": self._digest, "compact": self._places}

    def _check(self, _: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        groups = state["param_groups"]
        moments = [state["state"].get(place, {}) for group in groups for place in group["params"]]
        self._compare(groups[0].get(KEY) if groups else None, moments)

    def _compare(self, mark: Mapping[str, Any] | None, moments: Sequence[Mapping[str, Any]]) -> None:
        if mark is None:
            for weight, held in zip(self._weights(), moments, strict=False):
                if self._elementwise and id(weight) in self._regions:
                    _refuse_compact(held, self._regions[id(weight)])
        elif mark["regions"] != self._digest or not set(mark["compact"]) <= set(self._places):
            raise ProtectionError(
                "the optimizer's state was saved under another protection: its moments belong to other entries; "
                "protect what was protected then, in the same way, or begin with a new state"
            )

    @property
    def _places(self) -> list[int]:
        """The optimizer's weights that are trained compactly."""
        return [place for place, weight in enumerate(self._weights()) if id(weight) in self._compact]

    @functools.cached_property
    def _digest(self) -> str:
        """64 hex digits over what is protected of which of the optimizer's weights; names differ between wrappers."""
        whole = hashlib.sha256()
        for place, weight in enumerate(self._weights()):
            if (region := self._regions.get(id(weight))) is not None:
                whole.update(f"{place} {tuple(weight.shape)} {region.inverted}\n".encode())
                whole.update(region.indices.astype("<i8").tobytes())
        return whole.hexdigest()

    def _weights(self) -> list[torch.Tensor]:
        return [weight for group in self._optimizer.param_groups for weight in group["params"]]


def _unmark(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups[:1]:
        group.pop(KEY, None)


def _refuse_compact(moments: Mapping[str, Any], region: Region) -> None:
    for value in moments.values():
        if torch.is_tensor(value) and value.numel() > 1 and value.shape != region.tensor.shape:
            raise ProtectionError(
                f"tensor {region.name!r}: the optimizer's state has {value.numel():,} moments for its "
                f"{region.tensor.numel():,} entries and does not say for which: begin with a new state"
            )
