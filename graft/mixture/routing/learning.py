"""A skill's reference learned from its texts, and its threshold from texts that were held out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from graft.arguments import checked
from graft.errors import ConfigError, DataError
from graft.mixture.routing.reference import FEWEST_TEXTS, PROBE, SkillReference, fit_subspace
from graft.mixture.routing.text_embedder import Embed
from graft.tasks.examples import Example
from graft.tasks.task import Task

ACCEPT = 0.95  # of the skill's own texts
MOST_TEXTS = 1000  # of each split of a task, evenly from its start to its end


@checked
def learn_reference(
    embed: Embed, texts: Sequence[str], held_out: Sequence[str], *, accept: float = ACCEPT
) -> SkillReference:
    """Learn what a skill's texts look like to the base, and from which score on a text is taken for one of them.

    Args:
        embed: the base; see `TextEmbedder`.
        texts: of the skill, to learn from.
        held_out: others, for the threshold; those that are among `texts` are left out.
        accept: the share of the skill's own texts to accept, in 0..1.

    Raises:
        ConfigError: `accept` is not between 0 and 1.
        DataError: there are too few texts of either kind.
    """
    if not 0 < accept < 1:
        raise ConfigError(f"accept {accept}: a share of the skill's own texts, above 0 and below 1")
    known = list(dict.fromkeys(texts))
    seen = set(known)
    new = [text for text in dict.fromkeys(held_out) if text not in seen]
    if len(known) < FEWEST_TEXTS:
        raise DataError(
            f"a skill's reference needs {FEWEST_TEXTS} different texts or more to learn from, not {len(known)}"
        )
    fewest = fewest_held_out(accept)
    if len(new) < fewest:
        raise DataError(f"to accept {accept:.0%} takes {fewest} held-out texts or more, not {len(new)}")
    subspace = fit_subspace(embed(known))
    threshold = find_threshold(subspace.score(embed(new)), accept)
    return SkillReference(subspace, threshold, accept, len(new), embed([PROBE])[0])


@checked
def learn_task_reference(embed: Embed, task: Task, *, accept: float = ACCEPT) -> SkillReference:
    """Learn a skill's reference from its task: from the training texts, with the threshold from the validation texts.

    Labels are not used, but rows of no label of the task are left out. The texts of a pair are joined by a line break;
    of rows with answers, and of chats, the user's side is read.

    Raises:
        DataError: data are missing or too few.
        ConfigError: as `learn_reference`.
    """
    train, validation = (
        [_text_of(example, task) for example in examples[:: -(-len(examples) // MOST_TEXTS)]]
        for examples in (task.train_examples(), task.validation_examples())
    )
    try:
        return learn_reference(embed, train, validation, accept=accept)
    except DataError as error:
        raise DataError(f"task {task.spec.name!r}: {error}") from error


def find_threshold(scores: torch.Tensor, accept: float = ACCEPT) -> float:
    """Return the threshold of split conformal prediction for scores (n,) of held-out texts.

    It is their ⌊(1 - accept) · (n + 1)⌋-th smallest (Vovk et al. 2005; Lei et al. 2018, arXiv 1604.04173). A new text
    of the same kind reaches it with probability `accept` or more, whatever the distribution of scores, and at least
    that share of the held-out texts do. There must be as many as `fewest_held_out` says.
    """
    return float(scores.sort().values[_rank(accept, len(scores)) - 1])


def fewest_held_out(accept: float) -> int:
    """Return how many held-out texts a threshold needs that accepts such a share."""
    n = math.ceil(1 / (1 - accept)) - 2
    while _rank(accept, n) < 1:
        n += 1
    return n


def _rank(accept: float, n: int) -> int:
    """Return ⌊(1 - accept) · (n + 1)⌋, without what rounding takes from a whole number."""
    return math.floor(round((1 - accept) * (n + 1), 9))


def _text_of(example: Example, task: Task) -> str:
    if example.roles:
        return "\n".join(text for text, role in zip(example.texts, example.roles, strict=True) if role == "user")
    texts = example.texts[:1] if task.spec.head.entry.has_answers else example.texts
    return "\n".join(texts)
