"""Scores by name: of weights for localization, and of their importance to what a model knows.

A new score is one file in this folder and one row here. A row of `SCORES` is at once a method of `graft localize`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graft.registry import Entry, Registry


@dataclass(frozen=True, kw_only=True)
class ScoreEntry(Entry):
    """A way to score weights for localization.

    Its target is a function from `graft.scores.inputs.ScoreInput` to a table of scores of every weight in scope, or to
    `graft.scores.table.CandidateScores`.

    Attributes:
        needs_data: it takes gradients or predictions on a task's training examples.
        needs_general: it also takes texts that have no part in the skill.
        bytes_per_weight: of host memory while it scores, for each weight in scope, as memory plans count it.
        bytes_per_scored: the same for each weight of the one tensor whose scores are looked at.
        of_candidates: it scores candidates alone, and every weight only where `exact_scores` asks for it.
        of_matrices: it tells nothing of vectors, so that entries are chosen among the others alone.
        follows_budget: a score depends on how many entries are asked for: "always", or along the "graft" as it grows
            but not along the straight path; of candidates it does in any case, since a budget names them.
        forward_only: it runs the model and takes no gradient.
        over_processes: several processes get one process's scores; false for a score that adds up a number per weight
            over its own process's examples.
    """

    needs_data: bool = False
    needs_general: bool = False
    bytes_per_weight: int = 0
    bytes_per_scored: int = 16
    of_candidates: bool = False
    of_matrices: bool = False
    follows_budget: Literal["always", "graft"] | None = None
    forward_only: bool = False
    over_processes: bool = False


@dataclass(frozen=True, kw_only=True)
class ImportanceEntry(Entry):
    """A way to score how much weights matter to a model.

    Its target is a function from `graft.scores.inputs.ImportanceInput` to a table of scores.

    Attributes:
        needs: its input beside the model: a task's "data", the "base" that it was tuned from, or the "record" that
            its training left.
    """

    needs: Literal["data", "base", "record"]


SCORES = Registry(
    "score",
    [
        ScoreEntry(
            name="attribution",
            help="-g.delta integrated along a path",
            target="graft.scores.attribution:score_attribution",
            source="https://arxiv.org/abs/1703.01365",
            needs_data=True,
            bytes_per_weight=4,
            of_candidates=True,
            follows_budget="graft",
            over_processes=True,
        ),
        ScoreEntry(
            name="taylor",
            help="-g.delta to first order at the base",
            target="graft.scores.attribution:score_taylor",
            source="https://arxiv.org/abs/1703.01365",
            needs_data=True,
            bytes_per_weight=4,
            of_candidates=True,
            over_processes=True,
        ),
        ScoreEntry(
            name="fisher",
            help="F.delta^2, F the Fisher information at the tuned weights",
            target="graft.scores.fisher:score_fisher_movement",
            source="https://arxiv.org/abs/2111.09832",
            needs_data=True,
            bytes_per_weight=4,
        ),
        ScoreEntry(
            name="adam-attribution",
            help="-g.delta over the root of mean squared gradients",
            target="graft.scores.adam_attribution:score_adam_attribution",
            source="https://arxiv.org/abs/1412.6980",
            needs_data=True,
            bytes_per_weight=8,
        ),
        ScoreEntry(
            name="wanda",
            help="|delta| times the size of its input",
            target="graft.scores.wanda:score_wanda",
            source="https://arxiv.org/abs/2306.11695",
            needs_data=True,
            forward_only=True,
        ),
        ScoreEntry(
            name="mathneuro",
            help="large weights times inputs on the task's texts, and not on general ones",
            target="graft.scores.mathneuro:score_mathneuro",
            source="https://arxiv.org/abs/2410.16930",
            needs_data=True,
            needs_general=True,
            bytes_per_scored=64,
            of_matrices=True,
            follows_budget="always",
            forward_only=True,
        ),
        ScoreEntry(
            name="talos",
            help="least sensitive weights of the base, a contrast",
            target="graft.scores.talos:score_talos",
            source="https://arxiv.org/abs/2504.02620",
            needs_data=True,
            bytes_per_weight=4,
        ),
        ScoreEntry(
            name="magnitude",
            help="|delta|",
            target="graft.scores.magnitude:score_magnitude",
            source="https://arxiv.org/abs/2302.06600",
            over_processes=True,
        ),
        ScoreEntry(
            name="relative",
            help="|delta|/|theta|",
            target="graft.scores.relative:score_relative",
            source="https://arxiv.org/abs/1708.03888",
            over_processes=True,
        ),
        ScoreEntry(
            name="lift",
            help="largest weights of the base after rank reduction",
            target="graft.scores.lift:score_lift",
            source="https://arxiv.org/abs/2506.00772",
            over_processes=True,
        ),
        ScoreEntry(
            name="lift-delta",
            help="largest entries of delta after rank reduction",
            target="graft.scores.lift:score_lift_delta",
            source="https://arxiv.org/abs/2506.00772",
            over_processes=True,
        ),
        ScoreEntry(name="random", help="the control", target="graft.scores.random:score_random", over_processes=True),
    ],
)

IMPORTANCE_SCORES = Registry(
    "importance score",
    [
        ImportanceEntry(
            name="saliency",
            help="|g.theta|, mean over micro-batches",
            target="graft.scores.saliency:score_saliency",
            source="https://arxiv.org/abs/1810.02340",
            needs="data",
        ),
        ImportanceEntry(
            name="fisher",
            help="squared gradients",
            target="graft.scores.fisher:score_fisher",
            source="https://arxiv.org/abs/1612.00796",
            needs="data",
        ),
        ImportanceEntry(
            name="movement",
            help="|theta - base|, without data",
            target="graft.scores.magnitude:score_movement",
            source="https://arxiv.org/abs/2508.21741",
            needs="base",
        ),
        ImportanceEntry(
            name="path",
            help="what `graft train --record` recorded",
            target="graft.scores.synaptic_intelligence:score_path",
            source="https://arxiv.org/abs/1703.04200",
            needs="record",
        ),
    ],
)
