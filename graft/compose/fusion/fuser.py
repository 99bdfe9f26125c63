"""Fusion of several fully fine-tuned models into one, streamed: at most a block of one tensor is in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.compose.clusters import clusters_at, single_linkage
from graft.compose.fusion.angles import angles_of, arc_coefficients, dots_of, gram_of
from graft.compose.fusion.checkpoint_writer import CheckpointWriter
from graft.compose.fusion.chunk import Chunk, select_within
from graft.compose.registry import FUSION_METHODS
from graft.errors import CheckpointError, ConfigError, MismatchError
from graft.files.claims import Output, claim_output
from graft.files.location import local_paths, locate
from graft.files.outputs import new_folder
from graft.localize.top_deltas import TopDeltas, find_top_deltas
from graft.patch.head_config import read_head, renames_labels
from graft.patch.model_folder import find_side_files
from graft.specs.fusion import FusionSpec
from graft.specs.reader import to_plain
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.deltas import LONG
from graft.tensors.dtypes import TORCH_DTYPES, is_finite
from graft.tensors.pair import CheckpointPair, chunks_of
from graft.tensors.rounding import undo_rounding
from graft.tensors.scope import Scope
from graft.tensors.streaming import stream_tensors

RECORD = "graft_fusion.json"


@dataclass(frozen=True)
class Fusion:
    """The outcome of a fusion.

    Attributes:
        spec: how it was done.
        models: names of the tuned models.
        n_fused: weights that were fused.
        kept: names of the base's tensors that were left as they are: buffers, and what a tuned model lacks.
        left_out: names of tensors that only tuned models have, such as classifier heads.
        files_left_out: files of the base's folder that are not copied, and why.
        angles: degrees between each pair of models' whole weights; empty where no angle was needed.
        selected: entries in each model's core or trimmed difference; empty where none was selected.
        jaccard: (m, m) of these selections; empty likewise.
        clusters: names of the models whose selections are linked at the threshold.
    """

    spec: FusionSpec
    models: tuple[str, ...]
    n_fused: int
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    files_left_out: tuple[str, ...]
    angles: tuple[tuple[float, ...], ...]
    selected: tuple[int, ...]
    jaccard: tuple[tuple[float, ...], ...]
    clusters: tuple[tuple[str, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def fuse_models(
    base: str | Path, tuned: Sequence[str | Path], out: Output, spec: FusionSpec | None = None, *, force: bool = False
) -> Fusion:
    """Fuse models that were tuned from one base into a folder with the base's shards, index, dtypes and side_files.

    The models are read once; once more for angles between whole models, and once more to select entries. The base is
    read with them where its values count (not for mean and slerp). The folder comes whole or not at all, with a record
    of the fusion in it.

    Args:
        base: the model that all were tuned from.
        tuned: two or more, in the order in which slerp folds them.
        out: the folder to make.
        spec: method and settings; CPI by default.
        force: replace an existing folder.

    Raises:
        MismatchError: a model is of another architecture or vocabulary than the base; the tensor is named.
        CheckpointError: one cannot be read, or holds NaN or infinite values.
        ConfigError, OutputError: an input is refused; the line says which and why.
    """
    claim = claim_output(out, is_folder=True, force=force, inputs=local_paths(base, *tuned))
    if len(tuned) < 2:
        raise ConfigError("a fusion needs two tuned models or more")
    fuser = _Fuser(base, tuned, spec or FusionSpec())
    fuser.prepare()
    with new_folder(claim) as folder:
        result = fuser.write(folder)
        text = json.dumps(result.to_json(), indent=2, ensure_ascii=False) + "\n"
        (folder / RECORD).write_text(text, encoding="utf-8")
    return result


def _refuse_other_sizes(pair: CheckpointPair) -> None:
    """Refuse models of other shapes, since a fused model has the base's layout.

    Raises:
        MismatchError: a tensor is of another shape in the tuned model, a grown vocabulary's and a head's among them.
    """
    pair.refuse_unlike(Scope("all"))
    other = sorted({*pair.grown, *pair.replaced})
    if other:
        left, right = pair.base.spec(other[0]), pair.tuned.spec(pair.replaced.get(other[0]) or pair.names[other[0]])
        raise MismatchError(
            f"tensor {other[0]!r} has shape {list(left.shape)} in the base, {list(right.shape)} in the "
            f"tuned checkpoint {pair.tuned.path.name}: only models of one shape can be fused"
        )


def _refuse_other_labels(pairs: Sequence[CheckpointPair]) -> None:
    """Refuse heads whose outputs mean other things, since heads are fused output by output.

    Raises:
        MismatchError: a tuned model's config names the base's head, and other labels.
    """
    for pair in pairs:
        base, tuned = read_head(pair.base.path), read_head(pair.tuned.path)
        if renames_labels(base, tuned):
            raise MismatchError(
                f"{pair.tuned.path.name} calls the outputs of its head {tuned.get('labels')}, and "
                f"{pair.base.path.name} {base.get('labels')}: heads of other labels cannot be fused"
            )


class _Fuser:
    """A fusion in progress: the passes over the models, and what they gather."""

    def __init__(self, base: str | Path, tuned: Sequence[str | Path], spec: FusionSpec) -> None:
        located = [locate(model) for model in tuned]
        self.base = Checkpoint.open(locate(base).path)
        self.pairs = [CheckpointPair.open(self.base, item.path).without_rounding() for item in located]
        for pair in self.pairs:
            _refuse_other_sizes(pair)
        self.models = tuple(item.name for item in located)
        _refuse_other_labels(self.pairs)
        self.spec, self.method = spec, FUSION_METHODS[spec.method]
        self.fuse: Callable[[Chunk], torch.Tensor] = self.method.load()
        self.side_files = find_side_files(self.base)
        shared = set(self.base.parameters).intersection(*(pair.names for pair in self.pairs))
        self.names = [name for name in self.base.parameters if name in shared]
        m = len(self.pairs)
        self.coefficients = [1 / m] * m
        self.dots = torch.zeros((2, m, m), dtype=torch.float64)
        self.shared_counts = np.zeros((m, m), np.int64)
        k = max(1, math.floor((spec.share or 0) * self.base.n_parameters + 0.5))
        self.top_deltas = [TopDeltas(pair, self.names, k) for pair in self.pairs] if spec.share else []

    def prepare(self) -> None:
        """Make the passes before the one that writes: angles between whole models, and the largest deltas."""
        if self.spec.arcs and self.spec.angle == "model":
            for dots in stream_tensors(self._dots_of, self.names, self._tuned, "angles"):
                self.dots += dots
            self.coefficients = arc_coefficients(gram_of(self.dots))
        find_top_deltas(self.top_deltas, self.names, lambda name: [(self.base, name), *self._tuned(name)])

    def write(self, folder: Path) -> Fusion:
        """Make the pass that fuses and writes."""
        with CheckpointWriter(self.base, folder) as files:
            files.start(set(self.names), self.side_files)
            for dots, counts in stream_tensors(lambda name: self._fuse(name, files), self.names, self._reads, "fused"):
                self.dots += dots
                self.shared_counts += counts.numpy()
        return self._result()

    def _fuse(self, name: str, files: CheckpointWriter) -> tuple[torch.Tensor, torch.Tensor]:
        """Fuse a tensor; return its (m, m) fp64 dots, if they were not computed before, and int64 shared selections."""
        by_tensor = self.spec.arcs and self.spec.angle == "tensor"
        dots = self._dots_of(name) if by_tensor else torch.zeros_like(self.dots)
        coefficients = arc_coefficients(gram_of(dots)) if by_tensor else self.coefficients
        # no value is larger than the longest model: where that fits the dtype with room to spare, every sum does
        bound = sum(map(abs, coefficients)) * math.sqrt(gram_of(dots).diag().max()) if by_tensor else math.inf
        is_safe = bound < torch.finfo(TORCH_DTYPES[self.base.spec(name).dtype]).max / 2
        counts = torch.zeros(self.shared_counts.shape, dtype=torch.int64)
        selectors = [deltas.select(name) for deltas in self.top_deltas]
        for start, (base, *tuned) in self._blocks(name, LONG if selectors else None):
            selected = [select(base, values) for select, values in zip(selectors, tuned, strict=False)]
            fused = torch.empty_like(base)
            for offset, (of_base, *of_tuned) in chunks_of([base, *tuned], base.dtype):
                n = len(of_base)
                selections = select_within(selected, offset, n)
                chunk = Chunk(of_base, of_tuned, selections, coefficients, self.spec.factor)
                fused[offset : offset + n] = self.fuse(chunk)
                if selected:
                    counts += chunk.shared.pair_counts
            if not is_safe and not all(is_finite(part) for _, (part,) in chunks_of([fused], fused.dtype)):
                raise CheckpointError(f"tensor {name!r} holds NaN or infinite values, or its fusion overflows")
            files.put(name, start, fused)
        return dots, counts

    def _dots_of(self, name: str) -> torch.Tensor:
        """Return the `dots_of` a tensor, which is still in a cache when it is fused next."""
        dots, buffer = torch.zeros_like(self.dots), torch.empty(0)
        for _, (_, *tuned) in self._blocks(name):
            rows = buffer.resize_(len(tuned), len(tuned[0]))
            for row, values in zip(rows, tuned, strict=True):
                row.copy_(values)
            dots += dots_of(rows)
        return dots

    def _blocks(self, name: str, length: int | None = None) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Yield blocks of a tensor: the offset, then the base's and each model's values in the base's dtype."""
        models = [self.base.read(name), *(checkpoint.read(stored) for checkpoint, stored in self._tuned(name))]
        dtypes = [pair.narrow or model.dtype for pair, model in zip(self.pairs, models[1:], strict=True)]
        for start, (base, *tuned) in chunks_of(models, models[0].dtype, length):
            yield start, [base, *(undo_rounding(base, *other) for other in zip(tuned, dtypes, strict=True))]

    def _tuned(self, name: str) -> list[tuple[Checkpoint, str]]:
        return [(pair.tuned, pair.names[name]) for pair in self.pairs]

    def _reads(self, name: str) -> list[tuple[Checkpoint, str]]:
        """List the tensors that fusing one reads."""
        needed = self.method.needs_base or any(deltas.needs_base for deltas in self.top_deltas)
        return [*([(self.base, name)] if needed else []), *self._tuned(name)]

    def _result(self) -> Fusion:
        selected = np.diag(self.shared_counts)
        union = selected[:, None] + selected[None, :] - self.shared_counts
        jaccard = np.where(union > 0, self.shared_counts / np.maximum(union, 1), 0.0)
        groups = clusters_at(single_linkage(jaccard), self.spec.threshold) if self.top_deltas else ()
        listed = set(self.names) | set(self.base.aliases)
        return Fusion(
            spec=self.spec,
            models=self.models,
            n_fused=sum(self.base.spec(name).numel for name in self.names),
            kept=tuple(name for name in self.base.names if name not in listed),
            left_out=tuple(sorted({name for pair in self.pairs for name in pair.extra})),
            files_left_out=self.side_files.left_out,
            angles=tuple(map(tuple, angles_of(self.dots).tolist())) if self.spec.arcs else (),
            selected=tuple(selected.tolist()) if self.top_deltas else (),
            jaccard=tuple(map(tuple, jaccard.tolist())) if self.top_deltas else (),
            clusters=tuple(tuple(self.models[i] for i in group) for group in groups),
        )
