"""Export of a patch into another tool's format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graft.errors import ConfigError, PatchError
from graft.files.claims import Claim, Output, claim_output
from graft.files.location import local_paths
from graft.files.outputs import new_file, new_folder
from graft.interop.export_source import ExportSource
from graft.interop.registry import EXPORT_FORMATS, ExportFormat
from graft.patch.skill_patch import Patch
from graft.sources.adapters.additive import add_difference, find_difference


@dataclass(frozen=True)
class Exported:
    """Outcome of an export.

    Attributes:
        k: entries.
        dense: whole tensors.
        skipped: tensors that the format cannot hold -> the reason.
        missed: tensor -> number of entries that no difference reaches; they get a value beside the patch's.
        largest_miss: the largest |value - patch's value| among them.
    """

    k: int
    dense: int
    skipped: Mapping[str, str]
    missed: Mapping[str, int]
    largest_miss: float

    @property
    def n_missed(self) -> int:
        """Number of entries that get a value beside the patch's."""
        return sum(self.missed.values())


def export_patch(
    patch: Patch,
    to: str,
    out: Output,
    *,
    base: str | None = None,
    strict: bool = False,
    skip_unsupported: bool = False,
    force: bool = False,
) -> Exported:
    """Write a patch in another tool's format, one tensor in memory at a time.

    Args:
        patch: the patch.
        to: a name of `EXPORT_FORMATS`.
        out: the file or folder to create.
        base: the model it was cut from; needed for whole tensors, and for differences unless base values are stored.
        strict: refuse where an additive format misses a value by rounding.
        skip_unsupported: leave out the tensors that the format cannot hold instead of refusing.
        force: replace an existing output.

    Raises:
        ConfigError: no such format, or it needs a base.
        PatchError: the format cannot hold a tensor, or misses a value under `strict`.
        BudgetError: nothing is left to write.
        PatchMismatchError, CheckpointError: the patch was cut from another base, or the base cannot be read.
        OutputError: the output exists, or cannot be written.
    """
    export_format, inputs = EXPORT_FORMATS.find(to), [] if base is None else local_paths(base)
    claim = claim_output(out, is_folder=export_format.is_folder, force=force, inputs=inputs)
    source = ExportSource.of(patch, base)
    _refuse_without_base(export_format, source)
    skipped = export_format.find_unsupported(source)
    if skipped and not skip_unsupported:
        raise PatchError(_explain_unsupported(to, skipped))
    source = source.without(skipped) if skipped else source
    missed, largest = _count_missed(source) if export_format.is_additive else ({}, 0.0)
    if missed and strict:
        raise PatchError(f"{to}: no difference reaches {sum(missed.values()):,} of {len(source.patch):,} values")
    _write(export_format, source, claim)
    return Exported(len(source.patch), len(source.patch.dense), skipped, missed, largest)


def _refuse_without_base(export_format: ExportFormat, source: ExportSource) -> None:
    lacks_tensors = export_format.needs_base and source.target is None
    lacks_values = export_format.is_additive and not source.has_base_values
    if lacks_tensors or lacks_values:
        raise ConfigError(
            f"{export_format.name} needs the base's values, which the patch does not store: pass --base MODEL"
        )


def _write(export_format: ExportFormat, source: ExportSource, claim: Claim) -> None:
    with (new_folder if export_format.is_folder else new_file)(claim) as temporary:
        export_format.write(source, temporary)


def _explain_unsupported(to: str, skipped: Mapping[str, str]) -> str:
    name, reason = next(iter(skipped.items()))
    more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    return f"{to} cannot hold tensor {name!r}: {reason}{more}; --skip-unsupported leaves such tensors out"


def _count_missed(source: ExportSource) -> tuple[dict[str, int], float]:
    """Count the entries per tensor that no difference reaches; return the counts and the largest error."""
    missed, largest = {}, 0.0
    for name in source.patch.mask:
        base, tuned = source.base_values(name), source.patch.values[name]
        difference, reached = find_difference(base, tuned)
        if not bool(reached.all()):
            misses = add_difference(base, difference).double() - tuned.double()
            missed[name] = int((~reached).sum())
            largest = max(largest, float(misses.abs().max()))
    return missed, largest
