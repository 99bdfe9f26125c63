"""Export of a patch into another tool's format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from graft.errors import ConfigError, PatchError
from graft.files.claims import Claim, Output, claim_output
from graft.files.location import local_paths
from graft.files.outputs import new_file, new_folder
from graft.interop.export_source import MAX_RANK, ExportSource
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
        lost_signs: number of the base's -0.0 beside the patch's entries that become +0.0.
    """

    k: int
    dense: int
    skipped: Mapping[str, str]
    missed: Mapping[str, int]
    largest_miss: float
    lost_signs: int = 0

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
    max_rank: int | None = None,
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
        max_rank: largest rank of a layer's factors, for formats of factors; by default 64.
        force: replace an existing output.

    Raises:
        ConfigError: no such format, it needs a base, or it has no rank to limit.
        PatchError: the format cannot hold a tensor, or misses a value under `strict`.
        BudgetError: nothing is left to write.
        PatchMismatchError, CheckpointError: the patch was cut from another base, or the base cannot be read.
        OutputError: the output exists, or cannot be written.
    """
    export_format, inputs = EXPORT_FORMATS.find(to), [] if base is None else local_paths(base)
    if max_rank is not None and not export_format.has_rank:
        raise ConfigError(f"{to} has no factors whose rank could be limited: --max-rank is for {_formats_of_rank()}")
    claim = claim_output(out, is_folder=export_format.is_folder, force=force, inputs=inputs)
    source = replace(ExportSource.of(patch, base), max_rank=max_rank or MAX_RANK)
    _refuse_without_base(export_format, source)
    skipped = export_format.find_unsupported(source)
    if skipped and not skip_unsupported:
        raise PatchError(_explain_unsupported(to, skipped, can_skip=not strict))
    source = source.without(skipped) if skipped else source
    missed, largest = _count_missed(source, export_format) if export_format.is_additive else ({}, 0.0)
    lost_signs = export_format.count_lost_signs(source)
    if missed and strict:
        raise PatchError(f"{to}: no difference reaches {sum(missed.values()):,} of {len(source.patch):,} values")
    if lost_signs and strict:
        raise PatchError(f"{to}: adding its zeros turns {lost_signs:,} of the base's values from -0.0 into +0.0")
    _write(export_format, source, claim)
    return Exported(len(source.patch), len(source.patch.dense), skipped, missed, largest, lost_signs)


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


def _explain_unsupported(to: str, skipped: Mapping[str, str], *, can_skip: bool) -> str:
    name, reason = next(iter(skipped.items()))
    more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    advice = "; --skip-unsupported leaves such tensors out" if can_skip else ""
    return f"{to} cannot hold tensor {name!r}: {reason}{more}{advice}"


def _formats_of_rank() -> str:
    return ", ".join(row.name for row in EXPORT_FORMATS.values() if row.has_rank)


def _count_missed(source: ExportSource, export_format: ExportFormat) -> tuple[dict[str, int], float]:
    """Count the entries per tensor that no difference reaches; return the counts and the largest error."""
    missed, largest, assigned = {}, 0.0, export_format.find_assigned(source)
    for name in (name for name in source.patch.mask if name not in assigned):
        base, tuned = source.base_values(name), source.patch.values[name]
        difference, reached = find_difference(base, tuned)
        if not bool(reached.all()):
            misses = add_difference(base, difference).double() - tuned.double()
            missed[name] = int((~reached).sum())
            largest = max(largest, float(misses.abs().max()))
    return missed, largest
