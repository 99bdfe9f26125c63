"""Methods: ways to choose the entries of a patch, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from graft.localize.budget import allocate
from graft.localize.candidates import Candidates
from graft.localize.changes import Changes
from graft.localize.coordinates import Groups
from graft.localize.largest_movements import find_largest_mask
from graft.localize.learner.learned import learn_mask
from graft.localize.learner.published import learn_published
from graft.localize.path import GradientPath
from graft.localize.scores import SCORES
from graft.localize.scores.magnitude import score_magnitude
from graft.localize.scores.table import CandidateScores, DenseScores, ScoreInput, Scores
from graft.patch.mask import Mask
from graft.specs.localize import LearnSpec, LocalizeSpec, PaperSpec
from graft.tasks.examples import Example
from graft.tensors.pair import CheckpointPair

Tables = dict[LocalizeSpec, Scores]


@dataclass(frozen=True, eq=False)
class Search:
    """What a method chooses from.

    Attributes:
        changes: the changed entries in scope, of which the mask is made.
        k: how many to choose.
        config: how to choose.
        path: the model at hand with the training examples; None for methods without data.
        validation: the validation examples; empty for methods without data.
        tables: scores computed before, by the settings that they depend on.
    """

    changes: Changes
    k: int
    config: LocalizeSpec
    path: GradientPath | None = None
    validation: Sequence[Example] = ()
    tables: Tables = field(default_factory=dict)

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
        """The scores of a name; computed once."""
        config = self.config
        key = dataclasses.replace(config, method=name, learn=LearnSpec(), paper=PaperSpec())  # type: ignore[arg-type]
        if key not in self.tables:
            given = ScoreInput(
                self.pair,
                self.names,
                seed=config.seed,
                points=config.points,
                path=self.path,
                straight=config.path == "straight",
                groups=self.groups,
                candidates=None if config.exact_scores else config.candidates,
                micro_batch=config.micro_batch,
            )
            found = SCORES[name].function(given)
            self.tables[key] = found if isinstance(found, CandidateScores) else DenseScores(self.pair, found)
        return self.tables[key]


@dataclass(frozen=True)
class Method:
    """A way to choose, and whether it needs data: the training examples, and those of validation beside them."""

    choose: Callable[[Search], Mask]
    needs_data: bool
    needs_validation: bool = False


def _choose_by_score(search: Search, name: str) -> Mask:
    return search.score(name).select(search.groups)


def _choose_largest(search: Search) -> Mask:
    """Without a list of all where the budget is not shared out; else, or where too few moved, as by any other score."""
    if search.config.allocation == "global":
        mask = find_largest_mask(search.pair, search.names, search.k)
        if len(mask) == search.k:
            return mask
    return _choose_by_score(search, "magnitude")


def _choose_learned(search: Search) -> Mask:
    """Learned among the best-scored `learn.multiple` x k entries."""
    path, config, learn = search.model, search.config, search.config.learn
    start = _start_scores(search)
    wide = [(names, min(learn.multiple * k, _available(search, names))) for names, k in search.groups]
    candidates = Candidates(search.pair, path.weights, start.select(wide), search.groups)
    scores = start.at(candidates.mask)
    train, validation = path.examples, search.validation
    if learn.data == "train+validation":
        train, validation = [*train, *validation], ()
    return learn_mask(path.head, candidates, scores, train, validation, learn, config.seed, centred=config.centred)


def _start_scores(search: Search) -> Scores:
    """T * (attribution + w * |delta|), in nats: the learner's own first T points, and what training says of each entry.

    Attributions come from as many examples as the few-shot split has; |delta| is what the gradients of all steps
    of training added up to, and less noisy. w = prior * a / d, where a and d are the medians of both over their own
    best k, so that with a prior of 1 both weigh the same.
    """
    learn, groups = search.config.learn, search.groups
    points = search.config.points if learn.start == "attribution" else 1  # scores hold the mean over them
    attributions = search.score(learn.start)
    sizes = attributions.movement()
    typical = [scores.at(scores.select(groups)).median() for scores in (attributions, sizes)]
    weight = learn.prior * float(typical[0].clamp_min(0) / typical[1])
    return attributions.plus(sizes, weight, points)


def _choose_published(search: Search) -> Mask:
    """The published procedure; the budget sizes its starting patch, the largest movements."""
    given = ScoreInput(search.pair, search.names)
    start = DenseScores(search.pair, score_magnitude(given)).select(search.groups)
    config = search.config
    return learn_published(search.model, start, list(search.validation), config.paper, config.seed)


def _available(search: Search, names: tuple[str, ...]) -> int:
    return sum(search.changes.counts[name] for name in names)


METHODS = {
    "learned": Method(_choose_learned, needs_data=True, needs_validation=True),
    "paper": Method(_choose_published, needs_data=True, needs_validation=True),
    **{name: Method(partial(_choose_by_score, name=name), score.needs_data) for name, score in SCORES.items()},
    "magnitude": Method(_choose_largest, needs_data=False),
}
