"""Methods: ways to choose the entries of a patch, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from graft.localize.learner.candidates import Candidates, Groups
from graft.localize.learner.learned import learn_mask
from graft.localize.learner.published import learn_published
from graft.localize.path import GradientPath
from graft.localize.scores import SCORES
from graft.localize.scores.magnitude import score_magnitude
from graft.localize.scores.table import ScoreInput, ScoreTable
from graft.localize.selection import select_top
from graft.localize.spec import LearnSpec, LocalizeSpec, PaperSpec
from graft.patch.mask import Mask
from graft.tasks.examples import Example
from graft.tensors.pair import CheckpointPair

Tables = dict[LocalizeSpec, ScoreTable]


@dataclass(frozen=True, eq=False)
class Search:
    """What a method chooses from.

    Attributes:
        pair: base and tuned checkpoints.
        names: base names in scope.
        changed: tensor name -> number of changed entries, for those that have any.
        groups: (names, share of the budget); the shares sum to k.
        config: how to choose.
        path: the model at hand with the training examples; None for methods without data.
        validation: the validation examples; empty for methods without data.
        tables: scores computed before, by the settings that they depend on.
    """

    pair: CheckpointPair
    names: tuple[str, ...]
    changed: dict[str, int]
    groups: Groups
    config: LocalizeSpec
    path: GradientPath | None = None
    validation: Sequence[Example] = ()
    tables: Tables = field(default_factory=dict)

    @property
    def model(self) -> GradientPath:
        """The path, which must be there."""
        if self.path is None:
            raise ValueError(f"method {self.config.method!r} needs a task's data")
        return self.path

    def score(self, name: str) -> ScoreTable:
        """The table of a score; computed once."""
        config = self.config
        key = dataclasses.replace(config, method=name, learn=LearnSpec(), paper=PaperSpec())  # type: ignore[arg-type]
        if key not in self.tables:
            choose = partial(select_mask, self.pair, groups=self.groups) if config.path == "graft" else None
            points, micro_batch = config.points, config.micro_batch
            given = ScoreInput(self.pair, self.names, config.seed, points, self.path, choose, micro_batch)
            self.tables[key] = SCORES[name].function(given)
        return self.tables[key]


@dataclass(frozen=True)
class Method:
    """A way to choose, and whether it needs data: the training examples, and those of validation beside them."""

    choose: Callable[[Search], Mask]
    needs_data: bool
    needs_validation: bool = False


def select_mask(pair: CheckpointPair, table: ScoreTable, groups: Groups) -> Mask:
    """The best-scored changed entries, as many of each group of tensors as its share says."""
    only_changed = {name: partial(_score_changed, pair, name, table) for name in table}
    indices = {}
    for group, share in groups:
        indices.update(select_top(only_changed, group, share))
    return Mask.of({name: pair.base.spec(name) for name in indices}, indices)


def _score_changed(pair: CheckpointPair, name: str, table: ScoreTable) -> torch.Tensor:
    _, changed = pair.read_delta(name)
    return table[name]().masked_fill_(~changed, -torch.inf)


def _choose_by_score(search: Search, name: str) -> Mask:
    return select_mask(search.pair, search.score(name), search.groups)


def _choose_learned(search: Search) -> Mask:
    """Learned among the best-scored `learn.multiple` x k entries."""
    path, config, learn = search.model, search.config, search.config.learn
    table = _start_table(search)
    wide = [(names, min(learn.multiple * k, _available(search, names))) for names, k in search.groups]
    candidates = Candidates(search.pair, path.weights, select_mask(search.pair, table, wide), search.groups)
    scores = _gather(table, candidates.mask)
    train, validation = path.examples, search.validation
    if learn.data == "train+validation":
        train, validation = [*train, *validation], ()
    return learn_mask(path.head, candidates, scores, train, validation, learn, config.seed, centred=config.centred)


def _start_table(search: Search) -> ScoreTable:
    """T * (attribution + w * |delta|), in nats: the learner's own first T points, and what training says of each entry.

    Attributions come from as many examples as the few-shot split has; |delta| is what the gradients of all steps
    of training added up to, and less noisy. w = prior * a / d, where a and d are the medians of both over their own
    best k, so that with a prior of 1 both weigh the same.
    """
    learn, pair, groups = search.config.learn, search.pair, search.groups
    points = search.config.points if learn.start == "attribution" else 1  # tables hold the mean over them
    attributions, sizes = search.score(learn.start), search.score("magnitude")
    typical = [_gather(table, select_mask(pair, table, groups)).median() for table in (attributions, sizes)]
    weight = learn.prior * float(typical[0].clamp_min(0) / typical[1])

    def add(name: str) -> torch.Tensor:
        return (attributions[name]() + weight * sizes[name]()).mul_(points)

    return {name: partial(add, name) for name in attributions}


def _gather(table: ScoreTable, mask: Mask) -> torch.Tensor:
    """(k,) fp32 scores at a mask, by tensor name, then index."""
    return torch.cat([table[name]()[torch.tensor(mask[name])] for name in mask])


def _choose_published(search: Search) -> Mask:
    """The published procedure; the budget sizes its starting patch, the largest movements."""
    given = ScoreInput(search.pair, search.names)
    start = select_mask(search.pair, score_magnitude(given), search.groups)
    config = search.config
    return learn_published(search.model, start, list(search.validation), config.paper, config.seed)


def _available(search: Search, names: tuple[str, ...]) -> int:
    return sum(search.changed[name] for name in names)


METHODS = {
    "learned": Method(_choose_learned, needs_data=True, needs_validation=True),
    "paper": Method(_choose_published, needs_data=True, needs_validation=True),
    **{name: Method(partial(_choose_by_score, name=name), score.needs_data) for name, score in SCORES.items()},
}
