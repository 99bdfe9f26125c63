"""Provenance of composed and reduced patches: every part, and a count of every coordinate that parts share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graft.compose.chain_links import result_of
from graft.compose.sources import Source
from graft.patch.index_join import IndexJoin, count_overlaps
from graft.patch.overlap_rules import OverlapRule
from graft.patch.provenance import CUT, TOOL, BaseIdentity, Provenance
from graft.patch.refit_record import MIXED, read_record


class OverlapTally:
    """Tally of the coordinates that patches share, tensor by tensor.

    Attributes:
        shared: coordinates that two or more patches hold.
        differing: of these, the ones where the patches have different bits.
        cancelled: of these, the ones that the rule "sign" left at the base's value.
        whole: names of the tensors that several patches bring whole with different bits, or one whole and another in
            part.
        pair_overlaps: (m, m) int64 shared coordinates of each pair of patches.
    """

    def __init__(self, m: int) -> None:
        self.shared = self.differing = self.cancelled = 0
        self.whole: list[str] = []
        self.pair_overlaps = np.zeros((m, m), np.int64)
        self._touched = np.zeros(m, np.int64)

    def add(self, owners: Sequence[int], join: IndexJoin, differing: int, cancelled: int) -> None:
        """Count one tensor; `owners` are the numbers of the patches that were joined."""
        self.shared += join.shared
        self.differing += differing
        self.cancelled += cancelled
        self.pair_overlaps[np.ix_(owners, owners)] += count_overlaps(join, len(owners))
        in_shared = np.repeat(join.length > 1, join.length)
        self._touched[owners] += np.bincount(join.owner[in_shared], minlength=len(owners))

    def to_json(self, labels: Sequence[str], rule: OverlapRule) -> dict[str, Any]:
        """Return the counts in all, those of each patch, and those of each pair that overlaps, as plain values."""
        pairs = [
            {"a": labels[i], "b": labels[j], "shared": int(self.pair_overlaps[i, j])}
            for i, j in zip(*np.nonzero(np.triu(self.pair_overlaps, 1)), strict=True)
        ]
        shared_by_patch = {label: int(count) for label, count in zip(labels, self._touched, strict=True) if count}
        counts = {"rule": rule, "shared": self.shared, "differing": self.differing, "cancelled": self.cancelled}
        return {**counts, "whole": self.whole, "with_others": shared_by_patch, "pairs": pairs}


def describe_composition(
    sources: Sequence[Source], base: BaseIdentity, rule: OverlapRule, tally: OverlapTally
) -> Provenance:
    """Describe a composition: what the parts agree on is kept, the rest is listed part by part."""
    labels = [source.label for source in sources]
    method = {
        "method": "compose",
        "on_overlap": rule,
        "of": [_describe_part(source) for source in sources],
        "overlap": tally.to_json(labels, rule),
        "earlier": [item for source in sources for item in _earlier(source)],
        **_structure_of(sources),
    }
    return _merge_provenance(sources, base, method, _task_of(sources, rule))


def describe_chain(sources: Sequence[Source], restored: int) -> Provenance:
    """Describe a chain as a patch from the first one's base.

    Args:
        sources: the patches in order; the task is that of the last one that has a head, or else any.
        restored: entries that a later patch set back to the base's bits, and that are none.
    """
    method = {
        "method": "chain",
        "of": [_describe_part(source) for source in sources],
        "restored": restored,
        "earlier": [item for source in sources for item in _earlier(source)],
        **_structure_of(sources),
    }
    tasks = [source.provenance.task for source in sources if source.dense] or [
        source.provenance.task for source in sources if source.provenance.task
    ]
    task = tasks[-1] if tasks else None
    provenance = _merge_provenance(sources, sources[0].provenance.base, method, task)
    return dataclasses.replace(provenance, result=result_of(sources))


@dataclasses.dataclass
class Removed:
    """What the regions of others took out of a patch.

    Attributes:
        by: label of a region -> entries that it took out.
        k: all entries that were taken out.
        k_torn: of these, the ones in modules that a region brings whole.
        whole: names of the whole tensors, or new rows, that were left out.
    """

    by: dict[str, int]
    k: int = 0
    k_torn: int = 0
    whole: Sequence[str] = ()


def describe_exclusion(source: Source, without: Sequence[Source], removed: Removed, base: BaseIdentity) -> Provenance:
    """Describe a patch less the regions of others; metrics stay only where nothing was removed.

    Args:
        source: the patch that was reduced.
        without: the regions taken out of it.
        removed: what they took out.
        base: of the patch and all regions.
    """
    method = {
        "method": "exclude",
        "of": [_describe_part(source)],
        "without": [_describe_part(other) | {"shared": removed.by[other.label]} for other in without],
        "removed": removed.k,
        "torn": removed.k_torn,
        "whole": list(removed.whole),
        "earlier": _earlier(source),
        **_structure_of([source]),
    }
    origin = source.provenance
    untouched = not removed.k and not removed.whole
    metrics = origin.metrics if untouched else None
    grown = {name: growth for name, growth in origin.grown.items() if name not in removed.whole}
    changed: dict[str, Any] = {"metrics": metrics, "grown": grown, "result": origin.result if untouched else None}
    if not untouched:  # what was measured was measured with all entries; teacher and texts are theirs still
        changed["refit"] = {key: origin.refit[key] for key in ("teacher", "texts") if key in origin.refit}
    return dataclasses.replace(origin, base=base, method=method, tool=TOOL, **changed)


def _describe_part(source: Source) -> dict[str, Any]:
    """Describe a part in plain values: nothing nested, so that compositions of compositions stay shallow."""
    origin = source.provenance
    plain = {key: value for key, value in origin.method.items() if isinstance(value, (str, int, float, bool))}
    part: dict[str, Any] = {"name": source.label, "k": source.k, "method": plain}
    task = (origin.task or {}).get("name")
    more = {"task": task if isinstance(task, str) else None, "scope": origin.scope, "licence": origin.licence}
    if origin.values != CUT:
        more |= {"values": origin.values, "teacher": read_record(origin).teacher}
    return part | {key: value for key, value in more.items() if value is not None}


def _earlier(source: Source) -> list[Any]:
    """List the overlaps that went into a part when it was composed itself, oldest first."""
    method = source.provenance.method
    before, own = method.get("earlier"), method.get("overlap")
    items = [item for item in before if isinstance(item, dict)] if isinstance(before, (list, tuple)) else []
    if isinstance(own, Mapping):
        plain = {key: value for key, value in own.items() if isinstance(value, (str, int, float, bool))}
        items.append({"name": source.label, **plain})
    return items


def _merge_provenance(
    sources: Sequence[Source], base: BaseIdentity, method: Mapping[str, Any], task: Mapping[str, Any] | None
) -> Provenance:
    origins = [source.provenance for source in sources]
    scopes = {(origin.scope, origin.n_maskable) for origin in origins}
    scope, n_maskable = scopes.pop() if len(scopes) == 1 else (None, 0)
    return Provenance(
        base=base,
        tied=next((origin.tied for origin in origins if origin.tied), ()),
        scope=scope,
        n_maskable=n_maskable,
        method=method,
        task=task,
        tokenizer=_agreed([origin.tokenizer for origin in origins]),
        licence=_agreed([origin.licence for origin in origins]),
        buffers=tuple(sorted({name for origin in origins for name in origin.buffers})),
        values=_agreed([origin.values for origin in origins]) or MIXED,
        tool=TOOL,
    )


def _task_of(sources: Sequence[Source], rule: OverlapRule) -> Mapping[str, Any] | None:
    """Choose the task that all share, else that of the head in the patch, since its labels name the head's outputs.

    One task may have been read in inputs of different lengths, or by a version that recorded none: no length is the
    composition's then.
    """
    tasks = [source.provenance.task for source in sources]
    if all(task == tasks[0] for task in tasks):
        return tasks[0]
    shared = [None if task is None else {key: task[key] for key in task if key != "max_length"} for task in tasks]
    if all(task == shared[0] for task in shared):
        return shared[0]
    heads = [source.provenance.task for source in sources if source.dense]
    return None if not heads else heads[-1 if rule == "last" else 0]


def _structure_of(sources: Sequence[Source]) -> dict[str, Any]:
    """Return the structure of parts that were all chosen by whole rows, or all by columns; of others nothing."""
    structures = [source.provenance.method.get("structure") for source in sources if source.provenance.has_lines]
    agree = len(structures) == len(sources) and structures.count(structures[0]) == len(sources)
    return {"structure": structures[0]} if agree else {}


def _agreed(values: Sequence[str | None]) -> str | None:
    return values[0] if len(set(values)) == 1 else None
