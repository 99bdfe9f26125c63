"""Import of another tool's file: make a patch from it and its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from graft.errors import BudgetError
from graft.files.location import Located, locate
from graft.interop.registry import IMPORT_FORMATS
from graft.localize.budget import resolve_budget
from graft.localize.pair_notes import Differences, note_rounding
from graft.patch.mask import Indices, Mask
from graft.patch.provenance import trace_provenance
from graft.patch.skill_patch import Patch
from graft.scores.selection import select_top
from graft.sources.adapters.imported_weights import Edit, ImportedWeights
from graft.sources.adapters.matching import apply_edits, match_edits
from graft.sources.adapters.sizes import cut_rows, new_rows
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import DTYPE_NAMES, as_bits, take
from graft.tensors.hashing import hash_values
from graft.tensors.pair import refuse_not_finite
from graft.tensors.rounding import narrow_dtype, undo_rounding
from graft.tensors.scope import Scope


@dataclass(frozen=True)
class Imported:
    """A file's changes beside their base, with one tensor in memory at a time.

    Attributes:
        located: where the base was found.
        base, file: the base, and the file.
        source: the file's format.
        weights: what the file holds.
        edits: the base's tensors -> their edits.
        dense: tensors that the base lacks, or of a head of another size.
    """

    located: Located
    base: Checkpoint
    file: Path
    source: str
    weights: ImportedWeights
    edits: Mapping[str, Sequence[Edit]]
    dense: dict[str, torch.Tensor]

    @classmethod
    def open(cls, file: Path, source: str, base: str) -> Imported:
        """Match a file's changes with their base; nothing is computed yet.

        Args:
            file: the file or folder.
            source: the file's format, a name of `IMPORT_FORMATS`.
            base: the model that the file belongs to.

        Raises:
            ConfigError: no such format.
            CheckpointError: the file is junk or of another kind, or the base cannot be read.
            MismatchError: the file does not belong to this base; the tensor is named.
        """
        import_format, located = IMPORT_FORMATS.find(source), locate(base)
        checkpoint = Checkpoint.open(located.path)
        weights = import_format.read(file, checkpoint)
        edits, dense = match_edits(weights, checkpoint)
        return cls(located, checkpoint, file, source, weights, dict(sorted(edits.items())), dense)

    def cut(self, density: float | None = None, budget: int | None = None, *, with_base_values: bool = False) -> Patch:
        """Make a patch of the changes.

        Args:
            density, budget: number of entries to keep, those that change most; entries that differ only by rounding to
                the file's dtype do not count. Without them every changed entry is kept.
            with_base_values: also store the base's values.

        Raises:
            BudgetError: the file changes nothing, or less than the budget.
            CheckpointError, MismatchError: as `read`.
        """
        base = self.base
        mask = _choose_entries(self, density, budget)
        rows, grown = new_rows(base, self.edits, self.file)
        dense = self.dense | rows
        for name, tensor in dense.items():
            refuse_not_finite(tensor, name, self.file)
        config = {"method": "import", "from": self.source, "density": density, "budget": budget, **self.weights.config}
        buffers = tuple(sorted(base.buffers.intersection(mask)))
        provenance = replace(trace_provenance(self.located, base, Scope("all"), config), grown=grown, buffers=buffers)
        values, before = _take_values(self, mask)
        hashes = {name: hash_values(tensor) for name, tensor in before.items()}
        return Patch(mask, values, hashes, provenance, before if with_base_values else None, dense)

    def describe(self, *, whole: bool) -> Differences:
        """Describe what a person should know of a file and its base: how many entries differ by rounding alone.

        Args:
            whole: a patch keeps every changed entry; else a budget selects among them.

        Raises:
            CheckpointError, MismatchError: as `read`.
        """
        pairs = {name: (self.base.read(name).dtype, self.read_stored(name).dtype) for name in self.parameters}
        rounding = [name for name, (left, right) in pairs.items() if left != right or self.narrow is not None]
        rounded = sum(
            int((self.changed(name, ignores_rounding=False) & ~self.changed(name, ignores_rounding=True)).sum())
            for name in rounding
        )
        if not rounding or not (rounded or self.narrow is None):
            return Differences((), (), (), None, {}, ())
        left, right = (DTYPE_NAMES[dtype] for dtype in pairs[rounding[0]])
        note = note_rounding(left, right, self.narrow, rounded, whole=whole)
        return Differences((), (), (), rounded, {}, (note,))

    @property
    def parameters(self) -> list[str]:
        """The base's parameters that the file changes."""
        return [name for name in self.edits if name in self.base.parameters]

    @cached_property
    def narrow(self) -> torch.dtype | None:
        """The 16-bit dtype that holds all 32- or 64-bit parameters of a file of whole tensors, where one does."""
        return None if self.weights.edits else narrow_dtype(map(self.read_stored, self.parameters))

    def read_stored(self, name: str) -> torch.Tensor:
        """Return the tuned values of one tensor of the base without new rows of a vocabulary, as in `Edit`.

        Raises:
            MismatchError: the file gives tied names different values.
        """
        return cut_rows(self.base, name, apply_edits(self.base.read(name), name, self.edits[name]))

    def read(self, name: str, *, ignores_rounding: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one tensor of the base and its tuned values in the base's dtype.

        Raises:
            MismatchError: as in `read_stored`.
            CheckpointError: a value is NaN or infinite.
        """
        before, stored = self.base.read(name), self.read_stored(name)
        tuned = stored.to(before.dtype)
        refuse_not_finite(tuned, name, self.file)
        return before, undo_rounding(before, tuned, self.narrow or stored.dtype) if ignores_rounding else tuned

    def changed(self, name: str, *, ignores_rounding: bool) -> torch.Tensor:
        """Mark, (n,) bool, the entries whose bits differ."""
        before, tuned = self.read(name, ignores_rounding=ignores_rounding)
        return (as_bits(before) != as_bits(tuned)).flatten()

    def measure_change(self, name: str) -> torch.Tensor:
        """Compute (n,) fp32 |tuned - base|, -inf where tuning moved nothing."""
        before, tuned = self.read(name, ignores_rounding=True)
        unmoved = (as_bits(before) == as_bits(tuned)).flatten()
        return (tuned.float() - before.float()).abs().flatten().masked_fill_(unmoved, -torch.inf)


def import_patch(
    file: Path,
    source: str,
    base: str,
    *,
    density: float | None = None,
    budget: int | None = None,
    with_base_values: bool = False,
) -> Patch:
    """Make a patch of the changes that another tool's file makes to a base, with one tensor in memory at a time.

    Args:
        file, source, base: as for `Imported.open`.
        density, budget, with_base_values: as for `Imported.cut`.

    Raises:
        ConfigError, CheckpointError, MismatchError, BudgetError: as these.
    """
    return Imported.open(file, source, base).cut(density, budget, with_base_values=with_base_values)


def _choose_entries(imported: Imported, density: float | None, budget: int | None) -> Mask:
    base, indices = imported.base, dict[str, Indices]()
    if density is None and budget is None:
        for name in imported.edits:
            indices[name] = imported.changed(name, ignores_rounding=False).nonzero().squeeze(1).numpy()
    else:
        k, names = resolve_budget(base.n_parameters, density or 0.0, budget), imported.parameters
        n = sum(int(imported.changed(name, ignores_rounding=True).sum()) for name in names)
        if n < k:
            raise BudgetError(f"a budget of {k:,} entries, but the imported file changes only {n:,} of the base's own")
        indices |= select_top({name: partial(imported.measure_change, name) for name in names}, names, k)
    mask = Mask.of({name: base.spec(name) for name in indices}, indices)
    if not len(mask):
        raise BudgetError("the imported file changes nothing of the base's own values: there is nothing to cut out")
    return mask


def _take_values(imported: Imported, mask: Mask) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Take the tuned values at a mask, and the base's."""
    values, before = {}, {}
    for name, indices in mask.indices.items():
        tensors = imported.read(name, ignores_rounding=False)
        before[name], values[name] = (take(tensor, torch.tensor(indices)) for tensor in tensors)
    return values, before
