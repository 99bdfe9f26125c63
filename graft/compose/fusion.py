"""Several fully fine-tuned models fused into one, streamed: no more than a stretch of one tensor is ever in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.compose.clusters import clusters_at, link_singly
from graft.compose.fused_files import FusedFiles
from graft.compose.fusion_rules import (
    add_task_vectors,
    angles_of,
    arc_coefficients,
    combine,
    dots_of,
    gram_of,
    merge_elected,
    transplant,
)
from graft.compose.fusion_spec import FusionSpec
from graft.compose.largest_movements import LargestMovements
from graft.config import to_plain
from graft.errors import CheckpointError, ConfigError
from graft.outputs import new_folder, refuse_existing
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES, is_finite
from graft.tensors.location import locate
from graft.tensors.pair import CheckpointPair

STRETCH = 1 << 16  # weights at a time: 256 KiB in fp32, for the base and for each model, so that a cache holds them
RECORD = "graft_fusion.json"
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Fusion:
    """What came of a fusion.

    Attributes:
        spec: how it was done.
        models: names of the tuned models.
        n_fused: weights that were fused.
        kept: names of the base's tensors that were left as they are: buffers, and what a tuned model lacks.
        left_out: names of tensors that only tuned models have, such as classifier heads.
        angles: degrees between each two models' whole weights; empty where no angle was needed.
        selected: entries in each model's core or trimmed difference; empty where none was selected.
        jaccard: (m, m) of these selections; empty likewise.
        clusters: names of the models whose selections hang together at the threshold.
    """

    spec: FusionSpec
    models: tuple[str, ...]
    n_fused: int
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    angles: tuple[tuple[float, ...], ...]
    selected: tuple[int, ...]
    jaccard: tuple[tuple[float, ...], ...]
    clusters: tuple[tuple[str, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def fuse_models(
    base: str | Path,
    tuned: Sequence[str | Path],
    out: Path,
    spec: FusionSpec | None = None,
    *,
    force: bool = False,
    progress: Progress = lambda n_weights: None,
) -> Fusion:
    """Fuse models that were tuned from one base into a folder with the base's shards, index, dtypes and companions.

    The models are read once, twice where angles are needed, three times where entries are selected; the folder comes
    whole or not at all, with a record of the fusion in it.

    Args:
        base: the model that all were tuned from.
        tuned: two or more, in the order in which slerp folds them.
        out: the folder to make.
        spec: method and settings; CPI by default.
        force: replace an existing folder.
        progress: called with the number of weights that each pass has dealt with.

    Raises:
        MismatchError: a model is of another architecture or vocabulary than the base; the tensor is named.
        CheckpointError: one cannot be read, or holds NaN or infinite values.
        ConfigError, OutputError.
    """
    refuse_existing(out, force=force)
    if len(tuned) < 2:
        raise ConfigError("a fusion needs two tuned models or more")
    fuser = _Fuser(base, tuned, spec or FusionSpec(), progress)
    fuser.look()
    with new_folder(out, force=force) as folder:
        result = fuser.write(folder)
        text = json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n"
        (folder / RECORD).write_text(text, encoding="utf-8")
    return result


class _Fuser:
    """The passes over the models, and what they gather."""

    def __init__(self, base: str | Path, tuned: Sequence[str | Path], spec: FusionSpec, progress: Progress) -> None:
        located = [locate(model) for model in tuned]
        self.base = Checkpoint.open(locate(base).path)
        self.pairs = [CheckpointPair.open(self.base, item.path) for item in located]
        self.models = tuple(item.name for item in located)
        self.spec, self.progress = spec, progress
        shared = set(self.base.parameters).intersection(*(pair.names for pair in self.pairs))
        self.names = [name for name in self.base.parameters if name in shared]
        self.dots: dict[str, torch.Tensor] = {}
        k = max(1, math.floor((spec.share or 0) * self.base.n_parameters + 0.5))
        self.movements = [LargestMovements(k) for _ in self.pairs] if spec.share else []
        self.met = np.zeros((len(self.pairs),) * 2, np.int64)

    def look(self) -> None:
        """The passes before the one that writes: angles and bounds of the selections."""
        if self.spec.arcs or self.movements:
            for name in self.names:
                self.dots[name] = torch.zeros((len(self.pairs) + 1,) * 2, dtype=torch.float64)
                for rows in self._stretches(name):
                    rows[1:] -= rows[0]
                    if self.spec.arcs:
                        self.dots[name] += dots_of(rows)
                    for movement, moved in zip(self.movements, rows[1:], strict=False):
                        movement.count_upper(moved)
        if self.movements:
            for name in self.names:
                for rows in self._stretches(name):
                    rows[1:] -= rows[0]
                    for movement, moved in zip(self.movements, rows[1:], strict=True):
                        movement.count_lower(moved)

    def write(self, folder: Path) -> Fusion:
        """The pass that fuses and writes."""
        with FusedFiles(self.base, folder) as files:
            files.start(set(self.names))
            self._write_all(files)
        return self._result()

    def _write_all(self, files: FusedFiles) -> None:
        whole = arc_coefficients(gram_of(self._all_dots())) if self.spec.arcs else None
        for name in self.names:
            by_tensor = self.spec.arcs and self.spec.angle == "tensor"
            arc = arc_coefficients(gram_of(self.dots[name])) if by_tensor else whole
            start, dtype = 0, TORCH_DTYPES[self.base.spec(name).dtype]
            for rows in self._stretches(name):
                fused = self._fuse(rows[0], rows[1:], arc).to(dtype)
                if not (_all_finite(rows) and _all_finite(fused)):
                    raise CheckpointError(f"tensor {name!r} holds NaN or infinite values, or its fusion overflows")
                files.put(name, start, fused)
                start += len(fused)

    def _stretches(self, name: str) -> Iterator[torch.Tensor]:
        """(m + 1, n) fp32: the base, then the tuned models' values rounded in its dtype; may be written into."""
        base = self.base.read(name).reshape(-1)
        models = [base, *(pair.tuned.read(pair.names[name]).reshape(-1) for pair in self.pairs)]
        buffer = torch.empty(len(models), min(STRETCH, len(base)))
        for start in range(0, len(base), STRETCH):
            rows = buffer[:, : len(base) - start]
            for row, model in zip(rows, models, strict=True):
                row.copy_(model[start : start + STRETCH].to(base.dtype))
            yield rows
            self.progress(rows.shape[1])

    def _fuse(self, base: torch.Tensor, tuned: torch.Tensor, arc: torch.Tensor | None) -> torch.Tensor:
        spec = self.spec
        if spec.method == "task-arithmetic":
            return add_task_vectors(base, tuned, spec.factor)
        m = len(tuned)
        joined = combine(tuned, arc if arc is not None else torch.full((m,), 1 / m, dtype=torch.float64))
        if not self.movements:
            return joined
        chosen = torch.stack([item.select(row - base) for item, row in zip(self.movements, tuned, strict=True)])
        counts = chosen.float()
        self.met += (counts @ counts.T).round().long().numpy()  # a stretch has fewer than 2^24 weights: exact in fp32
        if spec.method == "ties":
            return merge_elected(base, tuned, chosen, spec.factor)
        return transplant(joined, tuned, chosen)

    def _result(self) -> Fusion:
        selected = np.diag(self.met)
        union = selected[:, None] + selected[None, :] - self.met
        jaccard = np.where(union > 0, self.met / np.maximum(union, 1), 0.0)
        m = len(self.models)
        groups = clusters_at(link_singly(jaccard), m, self.spec.threshold) if self.movements else ()
        listed = set(self.names) | set(self.base.aliases)
        return Fusion(
            spec=self.spec,
            models=self.models,
            n_fused=sum(self.base.spec(name).numel for name in self.names),
            kept=tuple(name for name in self.base.names if name not in listed),
            left_out=tuple(sorted({name for pair in self.pairs for name in pair.extra})),
            angles=tuple(map(tuple, angles_of(self._all_dots()).tolist())) if self.spec.arcs else (),
            selected=tuple(selected.tolist()) if self.movements else (),
            jaccard=tuple(map(tuple, jaccard.tolist())) if self.movements else (),
            clusters=tuple(tuple(self.models[i] for i in group) for group in groups),
        )

    def _all_dots(self) -> torch.Tensor:
        return torch.stack(list(self.dots.values())).sum(0)


def _all_finite(values: torch.Tensor) -> bool:
    """A finite sum, which is quick to have, has finite terms; any other sum is looked into."""
    return math.isfinite(values.float().sum()) or is_finite(values)
