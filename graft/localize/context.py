"""The context of a localization method: checkpoints, budget, model and data, and a cache of scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from graft.localize.budget import allocate
from graft.localize.changes import Changes
from graft.localize.lines import choose_lines
from graft.localize.rank_limit import find_within_rank, select_within_rank
from graft.localize.registry import LOCALIZATION_METHODS
from graft.patch.mask import Mask
from graft.scores.coordinates import Groups
from graft.scores.gradient_path import GradientPath
from graft.scores.inputs import ScoreInput
from graft.scores.registry import SCORES
from graft.scores.table import CandidateScores, DenseScores, Scores
from graft.specs.localize import LearnSpec, LocalizeSpec, PaperSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.pair import CheckpointPair

ScoreCache = dict[LocalizeSpec, Scores]


@dataclass(frozen=True, eq=False)
class LocalizationContext:
    """Everything from which a localization method chooses its entries.

    Attributes:
        changes: the changed entries in scope, among which to choose.
        k: how many to choose.
        config: how to choose.
        path: the model at hand with the training examples; None for methods without data.
        validation: the validation examples; empty for methods without data.
        general: examples of general texts; empty for methods that read none.
        general_head: which reads these over the same model; None: their texts alone are read.
        with_base_values: the patch will hold the base's values too, which a budget of bytes counts.
        score_cache: the settings that scores depend on -> scores computed before.
    """

    changes: Changes
    k: int
    config: LocalizeSpec
    path: GradientPath | None = None
    validation: Sequence[Example] = ()
    general: Sequence[Example] = ()
    general_head: Head | None = None
    with_base_values: bool = False
    score_cache: ScoreCache = field(default_factory=dict)

    @property
    def pair(self) -> CheckpointPair:
        """Base and tuned checkpoints."""
        return self.changes.pair

    @property
    def names(self) -> tuple[str, ...]:
        """Base names in scope."""
        return self.changes.names

    @property
    def groups(self) -> Groups:
        """(names, share of the budget); the shares sum to k.

        Raises:
            BudgetError: fewer than k entries changed.
        """
        return allocate(self.k, self.changes.counts, self.config.allocation)

    @property
    def model(self) -> GradientPath:
        """The path, which must be there."""
        if self.path is None:
            raise ValueError(f"method {self.config.method!r} needs a task's data")
        return self.path

    def score(self, name: str) -> Scores:
        """Return the scores of a name, computed once for each setting that they depend on."""
        key = cache_key(name, self.config)
        if key not in self.score_cache:
            scores = SCORES.find(name).load()(self._score_input())
            is_table = not isinstance(scores, CandidateScores)
            self.score_cache[key] = DenseScores(self.pair, scores) if is_table else scores
        return self.score_cache[key]

    def select_by_score(self, name: str) -> Mask:
        """Return the entries with the best scores of a name, in each group as many as its share.

        Raises:
            BudgetError: fewer than k entries may be chosen.
        """
        if self.config.has_lines:
            of_every_weight = self.score(name)
            assert isinstance(of_every_weight, DenseScores)  # as `graft.localize.localization` sees to
            matrices, stored = list(self.changes.counts), self.with_base_values
            return choose_lines(of_every_weight, matrices, self.config, draws=name == "random", with_base_values=stored)
        scores, max_rank = self.score(name), self.config.max_rank
        if max_rank is None:
            return scores.select(self.groups)
        return select_within_rank(scores, self.groups, max_rank, self.changes.counts)

    def select_candidates(self, scores: Scores, multiple: int) -> Mask:
        """Return the `multiple` x k best-scored entries, fewer where there are not so many; the rank limit holds."""
        counts, max_rank = self.changes.counts, self.config.max_rank
        if max_rank is not None:
            return find_within_rank(scores, self.groups, max_rank, counts, multiple)
        return scores.select([(names, min(multiple * k, sum(counts[n] for n in names))) for names, k in self.groups])

    def _score_input(self) -> ScoreInput:
        config = self.config
        return ScoreInput(
            self.pair,
            self.names,
            seed=config.seed,
            points=config.points,
            path=self.path,
            straight=config.path == "straight",
            groups=self.groups,
            candidates=None if config.exact_scores else config.candidates,
            micro_batch=config.micro_batch,
            general=self.general,
            general_head=self.general_head,
        )


def cache_key(name: str, config: LocalizeSpec) -> LocalizeSpec:
    """Return the settings that the scores of a name depend on, those that they do not as a block has them by default.

    They are neither the method that asks for the scores, nor what only the learners read; nor the budget, unless the
    scores follow it.
    """
    key = dataclasses.replace(config, method=name, learn=LearnSpec(), paper=PaperSpec())
    if follows_budget(name, config):
        return key
    return dataclasses.replace(
        key, density=LocalizeSpec.density, budget=None, lines=None, bytes=None, allocation=LocalizeSpec.allocation
    )


def follows_budget(method: str, config: LocalizeSpec) -> bool:
    """Return whether what a method scores by depends on how many entries are asked for."""
    row = LOCALIZATION_METHODS.find(method)
    if row.of_candidates and not config.exact_scores:
        return True
    return row.follows_budget == "always" or (row.follows_budget == "graft" and config.path == "graft")
