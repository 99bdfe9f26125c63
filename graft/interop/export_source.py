"""Source of an export: a patch, and the base that it was cut from where one is at hand."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from graft.errors import ConfigError
from graft.files.location import locate
from graft.patch.compatibility import check_compatible
from graft.patch.head_config import head_of_patches, write_head
from graft.patch.mask import Mask
from graft.patch.merge import StoredTarget
from graft.patch.skill_patch import Patch
from graft.tensors.architecture import build_on_meta
from graft.tensors.checkpoint import Checkpoint

MAX_RANK = 64


@dataclass(frozen=True, eq=False)
class ExportSource:
    """Patch with its base.

    Attributes:
        patch: the patch.
        target: its base on disk, with the values under the mask checked; None without one.
        base_names: the patch's tensor names, of whole tensors too -> the base's; empty without a base.
        max_rank: largest rank that a layer's factors may have, where the format has factors.
    """

    patch: Patch
    target: StoredTarget | None = None
    base_names: dict[str, str] = dataclasses.field(default_factory=dict)
    max_rank: int = MAX_RANK

    @classmethod
    def of(cls, patch: Patch, base: str | None) -> ExportSource:
        """Open the base of a patch and check that the two belong together.

        Raises:
            PatchMismatchError: the patch was cut from another base.
            CheckpointError: the base cannot be read.
        """
        if base is None:
            return cls(patch)
        located = locate(base)
        target = StoredTarget(Checkpoint.open(located.path))
        matched = check_compatible(patch, target).require(located.name)
        return cls(patch, target, {**matched.dense, **matched.names})

    @property
    def has_base_values(self) -> bool:
        """True where the base's values under the mask are known."""
        return self.target is not None or self.patch.base_values is not None

    @cached_property
    def model(self) -> torch.nn.Module | None:
        """The base's model on the meta device, with the head that the patch brings; None where no config.json is."""
        path = self.target.checkpoint.path if self.target else None
        if path is None or not (path / "config.json").is_file():
            return None
        task = head_of_patches([self.patch], None) if self.patch.dense else None
        if task is None:
            return build_on_meta(path)
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(path / "config.json", folder)
            write_head(task, Path(folder))
            return build_on_meta(Path(folder))

    def base_values(self, name: str) -> torch.Tensor:
        """Return the base's (k,) values at the mask's entries in one tensor."""
        if self.target is not None:
            return self.target.gather(self.base_names[name], torch.tensor(self.patch.mask[name]))
        if self.patch.base_values is None:
            raise ConfigError("the patch stores no base values: pass --base MODEL")
        return self.patch.base_values[name]

    def base_tensor(self, name: str) -> torch.Tensor:
        """Return a whole tensor of the base, mapped from disk; treat it as read-only."""
        if self.target is None:
            raise ConfigError("whole tensors need the base: pass --base MODEL")
        return self.target.checkpoint.read(self.base_names[name])

    def without(self, names: Iterable[str]) -> ExportSource:
        """Return the source less some tensors, entries and whole ones alike.

        Raises:
            BudgetError: no entry is left.
        """
        patch, left_out = self.patch, set(names)
        remaining = {name: indices for name, indices in patch.mask.indices.items() if name not in left_out}
        dense = {name: tensor for name, tensor in patch.dense.items() if name not in left_out}
        mask = Mask.of({name: patch.mask.specs[name] for name in remaining}, remaining)
        grown = {name: growth for name, growth in patch.provenance.grown.items() if name not in left_out}
        origin = dataclasses.replace(patch.provenance, grown=grown)
        return dataclasses.replace(self, patch=dataclasses.replace(patch, mask=mask, dense=dense, provenance=origin))
