"""Inventory of a folder's tensors: used by its architecture, missing, or used by nothing.

transformers fills missing tensors at random and drops those that it does not know, with a warning that is easily
silenced. Here both are known from headers and config alone, before anything is loaded, and alike for every command.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from graft.tensors.architecture import Architecture
from graft.tensors.scope import block_of, kind_of


@dataclass(frozen=True)
class Inventory:
    """The tensors of a folder, compared with its architecture.

    Attributes:
        missing: what the architecture has and the files lack, by the names that files would have.
        left_out: what files may hold and the model does not use: buffers of earlier versions, layers beyond the
            last one (such as those that predict several tokens), heads of another class.
        foreign: what belongs to no such model: tensors within its layers that it does not have.
        resized: what has another size than the architecture says, with both shapes.
    """

    missing: tuple[str, ...]
    left_out: tuple[str, ...]
    foreign: tuple[str, ...]
    resized: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]


def take_inventory(shapes: Mapping[str, tuple[int, ...]], architecture: Architecture) -> Inventory:
    """Compare the tensors of a folder's files, name -> shape, with its architecture."""
    present, by_name, unused = _match(architecture, list(shapes))
    listed = architecture.packing.listed
    missing = [name for name in sorted(listed.keys() - present) if not architecture.optional.search(name)]
    missing = [name for name in missing if not architecture.tied.listed(name, present)]
    modules = {block_of(name) or name.rpartition(".")[0] for name in architecture.state}
    left_out: list[str] = []
    foreign: list[str] = []
    for name in unused:
        (left_out if _may_be_left_out(name, architecture, modules) else foreign).append(name)
    # of heads the task knows the size, and not every config tells it
    pairs = ((name, shapes[name], listed[own]) for own, name in by_name.items() if kind_of(own) != "heads")
    # where transformers converts what it loads, another shape of as many elements may be another layout
    size: Callable[[tuple[int, ...]], object] = math.prod if architecture.packing.converts else tuple
    resized = tuple(pair for pair in pairs if size(pair[1]) != size(pair[2]))
    return Inventory(tuple(missing), tuple(left_out), tuple(foreign), resized)


def _match(architecture: Architecture, names: Sequence[str]) -> tuple[set[str], dict[str, str], list[str]]:
    """Match the names in files with the architecture's, in every layout.

    Returns:
        present: the architecture's names that the files hold, in whichever layout.
        by_name: of these, the ones listed under a name of their own -> that name.
        unused: the names in files that stand for nothing.
    """
    match = _matcher(architecture)
    packing = architecture.packing
    by_name, unused = match(packing.listed, names)
    present = set(by_name)
    # files may also be laid out as the model is: its packed parameters as they stand
    others = architecture.state - packing.listed.keys()
    packed, unused = match(others, unused)
    for owner, parts in packing.owners().items():
        present |= set(parts) if owner in packed else set()
    if others - packing.owners().keys() <= packed.keys():
        present |= packing.rebuilt
    return present, by_name, unused


def _matcher(
    architecture: Architecture,
) -> Callable[[Iterable[str], Sequence[str]], tuple[dict[str, str], list[str]]]:
    def match(wanted: Iterable[str], available: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        matched = architecture.name_map.match(sorted(wanted), available)
        return matched.found, list(matched.unused)

    return match


def _may_be_left_out(name: str, architecture: Architecture, modules: set[str]) -> bool:
    """Return whether a name that no model uses is one that its files may hold all the same.

    A block past the last one, or a module beside the blocks that the model lacks, such as a pooler, is a whole module
    that the model can do without. A tensor within a block or module that the model has should have been used.
    """
    if architecture.legacy.search(name) or name in architecture.buffers:
        return True
    prefix, renamed = architecture.name_map.prefix, architecture.name_map.rename(name)
    module = block_of(renamed) or renamed.rpartition(".")[0]
    return not {module, f"{prefix}.{module}", module.removeprefix(f"{prefix}.")} & modules
