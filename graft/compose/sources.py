"""Sources of entries: patches and masks from files or from memory, read one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from graft.errors import ConfigError, PatchFormatError
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.reading import Entries, PatchFile
from graft.patch.mask import Mask
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch

MOST_SOURCES = 1024  # patches at once: a description of every part must fit into the header of the result
Region = Patch | Mask | str | Path


@dataclass(frozen=True, eq=False)
class Source:
    """A patch or mask to read from, tensor by tensor.

    Attributes:
        label: its name, without any path.
        kind: "patch" or "mask".
        specs: tensor name -> dtype and shape, of the tensors with entries.
        counts: tensor name -> k.
        hashes: tensor name -> hash of the base's values there, None in a mask.
        has_base: whether the base's values are stored.
        dense: name -> function that gives a whole tensor.
        provenance: where it came from.
        read: tensor name -> its entries.
    """

    label: str
    kind: str
    specs: Mapping[str, TensorSpec]
    counts: Mapping[str, int]
    hashes: Mapping[str, str | None]
    has_base: bool
    dense: Mapping[str, Callable[[], torch.Tensor]]
    provenance: Provenance
    read: Callable[[str], Entries]

    @property
    def k(self) -> int:
        """Number of entries."""
        return sum(self.counts.values())


def open_sources(regions: Sequence[Region], labels: Sequence[str] | None = None, *, values: bool) -> list[Source]:
    """Open patches and masks; of files only the headers are read.

    Args:
        regions: patches or masks in memory, or paths of such files or of folders that hold one.
        labels: their names; by default a file's or a task's.
        values: whether masks are refused.

    Raises:
        PatchFormatError: a file that is none, or a mask where values are needed.
        ConfigError: none, or more than `MOST_SOURCES`.
    """
    if not 1 <= len(regions) <= MOST_SOURCES:
        raise ConfigError(f"{len(regions):,} patches at once, where 1 to {MOST_SOURCES:,} can be: take them in groups")
    names = _distinct(labels or [_label(region, i) for i, region in enumerate(regions)])
    return [_open(region, label, values) for region, label in zip(regions, names, strict=True)]


def _open(region: Region, label: str, values: bool) -> Source:
    source = _from_memory(region, label) if isinstance(region, (Patch, Mask)) else _from_file(Path(region), label)
    if values:
        refuse_mask(source, region)
    return source


def refuse_mask(source: Source, region: Region) -> None:
    """Refuse a mask, since it has no values.

    Raises:
        PatchFormatError: it is a mask.
    """
    if source.kind != "patch":
        name = source.label if isinstance(region, (Patch, Mask)) else region
        raise PatchFormatError(f"{name}: a mask holds no values; this needs a patch")


def _from_memory(region: Patch | Mask, label: str) -> Source:
    mask = region.mask if isinstance(region, Patch) else region
    counts = {name: len(mask[name]) for name in mask}
    if not isinstance(region, Patch):
        no_hashes = dict.fromkeys(counts, None)
        return Source(
            label, "mask", mask.specs, counts, no_hashes, False, {}, Provenance(), lambda name: Entries(mask[name])
        )
    patch = region

    def read(name: str) -> Entries:
        """Return the patch's entries of a tensor."""
        return Entries(mask[name], patch.values[name], patch.base_values[name] if patch.base_values else None)

    dense = {name: partial(patch.dense.__getitem__, name) for name in patch.dense}
    has_base = patch.base_values is not None
    return Source(label, "patch", mask.specs, counts, patch.base_hashes, has_base, dense, patch.provenance, read)


def _from_file(path: Path, label: str) -> Source:
    file = PatchFile.open(path)
    return Source(
        label=label,
        kind=file.kind,
        specs={row.name: row.spec for row in file.rows.values()},
        counts={row.name: row.k for row in file.rows.values()},
        hashes={row.name: row.base_print for row in file.rows.values()},
        has_base=file.has_base,
        dense={name: partial(file.read_dense, name) for name in file.dense},
        provenance=file.provenance,
        read=file.read,
    )


def _label(region: Region, i: int) -> str:
    """Name a region by its file without the path, or its folder; by its task where it is in memory."""
    if isinstance(region, (str, Path)):
        path = Path(region).resolve()
        return path.parent.name if path.stem == "patch" else path.stem
    task = region.provenance.task if isinstance(region, Patch) else None
    return str((task or {}).get("name") or f"{i + 1}")


def _distinct(names: Sequence[str]) -> list[str]:
    """Append a number to every name that occurred before."""
    counts: dict[str, int] = {}
    result = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        result.append(name if counts[name] == 1 else f"{name} ({counts[name]})")
    return result
