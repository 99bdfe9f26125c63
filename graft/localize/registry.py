"""Methods of localization by name: those that learn a mask, and every score, of which the best k are kept."""

from __future__ import annotations

from dataclasses import dataclass

from graft.errors import ConfigError
from graft.registry import LayeredRegistry
from graft.scores.registry import SCORES, ScoreEntry


@dataclass(frozen=True, kw_only=True)
class LocalizationMethod(ScoreEntry):
    """A way to choose the entries of a patch.

    Its target is a function from `graft.localize.context.LocalizationContext` to a mask.

    Attributes:
        needs_validation: it uses the task's validation examples too.
        limits_rank: it can keep to a largest rank of each matrix.
        sizes_itself: how many entries it chooses follows from the data; the budget is where it starts.
    """

    needs_validation: bool = False
    limits_rank: bool = True
    sizes_itself: bool = False


# Every score is a method, of which the top k are kept. A score with a quicker way to its top k has a row of the same
# name here, which takes precedence.
LOCALIZATION_METHODS: LayeredRegistry[ScoreEntry] = LayeredRegistry(
    "method",
    [
        LocalizationMethod(
            name="learned",
            help="a mask learned at the exact budget",
            target="graft.localize.learned:choose_learned",
            source="https://arxiv.org/abs/1308.3432",
            needs_data=True,
            needs_validation=True,
            bytes_per_weight=4,
            of_candidates=True,
            follows_budget="graft",
            over_processes=True,
        ),
        LocalizationMethod(
            name="paper",
            help="the published procedure, whose size is its own",
            target="graft.localize.panigrahi2023:choose_panigrahi2023",
            source="https://arxiv.org/abs/2302.06600",
            needs_data=True,
            needs_validation=True,
            sizes_itself=True,
            bytes_per_weight=8,
            limits_rank=False,
        ),
        LocalizationMethod(
            name="magnitude",
            help=SCORES["magnitude"].help,
            target="graft.localize.top_deltas:choose_top_deltas",
            source=SCORES["magnitude"].source,
            over_processes=True,
        ),
    ],
    below=SCORES,
)


def keeps_to_budget(method: str) -> bool:
    """Return whether a method has no more entries than are asked for, as controls of a patch may have."""
    row = LOCALIZATION_METHODS.get(method)
    return row is not None and not (isinstance(row, LocalizationMethod) and row.sizes_itself)


def check_general(method: str, is_given: bool) -> None:
    """Refuse a method without the general texts that it needs, or with such as it does not read.

    Raises:
        ConfigError: saying which.
    """
    needs = LOCALIZATION_METHODS.find(method).needs_general
    if needs and not is_given:
        raise ConfigError(f"method {method!r} needs general texts beside the task's: give a TASK of them (--general)")
    if is_given and not needs:
        takers = ", ".join(name for name, row in LOCALIZATION_METHODS.items() if row.needs_general)
        raise ConfigError(f"method {method!r} reads no general texts (--general): they are for {takers}")
