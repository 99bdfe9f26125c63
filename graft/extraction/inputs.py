"""ExtractionInput: what an extraction method is given, and what several of them read from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from graft.files.location import locate
from graft.localize.context import ScoreCache
from graft.localize.localization import localize_skill
from graft.refit.refit import Refitter
from graft.scores.table import DenseScores
from graft.specs.extraction import ExtractSpec
from graft.specs.localize import LocalizeSpec
from graft.specs.refit import RefitSpec
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.tensors.dtypes import same_bits
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from graft.tensors.transposed import is_matrix


@dataclass(frozen=True)
class ExtractionInput:
    """Two checkpoints, and what a method may need beside them.

    Attributes:
        base: the pretrained model.
        tuned: the folder of the fine-tuned one.
        task: whose texts, labels and head are used by methods that need them.
        config: settings of the methods.
        folder: for what a method makes on its way, such as adapters in training.
        runtime: where and in what precision models run.
        seed: of what is drawn at random.
        others: a task of other texts, which `refit_other_texts` fits to.
    """

    base: str | Path
    tuned: Path
    task: Task
    config: ExtractSpec
    folder: Path
    runtime: Runtime = DEFAULT
    seed: int = 0
    others: Task | None = None
    _refitters: dict[tuple[Any, ...], Refitter] = field(default_factory=dict)

    @cached_property
    def pair(self) -> CheckpointPair:
        """Base and tuned checkpoints side by side."""
        return CheckpointPair.open(locate(self.base).path, self.tuned).without_rounding()

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """The base's names of the parameters that tuning changed."""
        names = self.pair.names_in(Scope("all"))
        return tuple(name for name in names if not same_bits(*self.pair.read(name)))

    def deltas(self, *, matrices: bool) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and fp32 difference, in its shape, of the changed matrices, or of the other changed tensors."""
        for name in self.changed:
            shape = self.pair.base.spec(name).shape
            if is_matrix(name, shape) == matrices:
                yield name, self.pair.read_delta(name)[0].view(shape)

    def attribution_at(self, density: float | None = None) -> LocalizeSpec:
        """Return how attribution is taken: exactly, and along the straight path, in which no budget has a part."""
        how = dataclasses.replace(self.config.localize.at(density), method="attribution", seed=self.seed)
        return dataclasses.replace(how, path="straight", exact_scores=True)

    @cached_property
    def attribution(self) -> DenseScores:
        """Attribution of every weight in scope."""
        cache: ScoreCache = {}
        how = self.attribution_at()
        localize_skill(self.base, self.tuned, self.task, how, score_cache=cache, **self.runtime.options)
        (scores,) = cache.values()
        assert isinstance(scores, DenseScores)
        return scores

    def refitter(self, config: RefitSpec, source: Task | None = None) -> Refitter:
        """Return base and recorded outputs for refits, opened once for all that fit to the same texts.

        Args:
            config: the refit block.
            source: a task whose training texts are fitted to, in place of the task's own.
        """
        key = (config.labels, config.texts, config.hold_out, config.seed, source is None)
        if key not in self._refitters:
            self._refitters.clear()  # each holds a model
            read = None if source is None else source.training_texts()
            opened = Refitter.open(self.base, self.tuned, self.task, config, texts=read, runtime=self.runtime)
            self._refitters[key] = opened
        return self._refitters[key]

    def open(self, model: str | Path) -> Head:
        """Open a model with the task's head."""
        return open_head(locate(model).path, self.task.spec, self.runtime, seed=self.seed)
