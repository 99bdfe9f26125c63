"""The texts whose predictions a patch changes most, by KL from the base to the graft.

Whole tensors that a patch brings, such as a classifier head, stand on both sides: the base has no such layer, and one
that is drawn at random predicts at random. New rows of a vocabulary stand on the graft's side alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from graft.errors import ConfigError
from graft.evaluate.evaluation import not_finite
from graft.patch.live import LiveTarget, apply_patch, prepare_patch
from graft.patch.skill_patch import Patch
from graft.patch.whole_tensors import keep_whole_tensors
from graft.refit.objective import divergences
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tasks.padded_logits import are_finite
from graft.tasks.vocabulary import make_room
from graft.tensors.dtypes import take

MOST = 10


@dataclass(frozen=True)
class ChangedText:
    """A text, and what the patch changes of its prediction.

    Attributes:
        texts: as in the data.
        kl: from the base's prediction to the graft's, in nats; of heads that predict tokens the mean over tokens.
        gold: the right label or choice; None of heads without labels.
        before, after: label -> probability by base and graft, of the gold label and of those that they hold likeliest.
    """

    texts: tuple[str, ...]
    kl: float
    gold: str | None = None
    before: dict[str, float] | None = None
    after: dict[str, float] | None = None


@dataclass(frozen=True)
class ChangedTexts:
    """The texts that a patch changes most.

    Attributes:
        n: texts that were compared.
        mean_kl: over all of them, nats.
        n_flipped: texts whose likeliest label changes; None of heads without labels.
        most: the texts with the largest KL, largest first, each once however often the data hold it.
    """

    n: int
    mean_kl: float
    n_flipped: int | None
    most: tuple[ChangedText, ...]


def find_changed_texts(head: Head, patch: Patch, examples: Sequence[Example], *, batch_size: int) -> ChangedTexts:
    """Find the texts with the largest KL from base to graft, both with the whole tensors that the patch brings.

    Args:
        head: over the base, which is left as it was but for rows that the patch adds to its vocabulary.
        patch: the patch.
        examples: with labels where the head has any.
        batch_size: texts at once, which no result depends on beyond rounding.

    Raises:
        PatchMismatchError: the patch does not fit.
        CheckpointError: an output is not finite.
        ConfigError: a head predicts tokens, and the patch adds some.
        DataError: no text has a token to predict.
    """
    if head.predicts_tokens:
        return _compare_tokens(head, patch, examples)
    whole = _whole_tensors(head, patch)
    with contextlib.nullcontext() if whole is None else apply_patch(head.model, whole):
        before = _predict(head, examples, batch_size, "base")
    make_room(head, [patch])
    with apply_patch(head.model, patch):
        after = _predict(head, examples, batch_size, "graft")
    kl = divergences(before, after)
    flipped = int((before.argmax(-1) != after.argmax(-1)).sum())
    best = _find_most(kl, examples)
    shown = (_describe(head, examples[i], float(kl[i]), before[i].softmax(-1), after[i].softmax(-1)) for i in best)
    return ChangedTexts(len(examples), float(kl.mean()), flipped, tuple(shown))


def _whole_tensors(head: Head, patch: Patch) -> Patch | None:
    """Return the whole tensors of a patch alone, without new rows of a vocabulary; None where it brings none."""
    dense = {name: tensor for name, tensor in patch.dense.items() if name not in patch.provenance.grown}
    if not dense:
        return None
    without_rows = dataclasses.replace(patch.provenance, grown={})
    target = LiveTarget(head.model)

    def read(name: str, indices: torch.Tensor) -> torch.Tensor:
        return take(target.require([name], "has an entry of the patch")[name], indices).cpu()

    return keep_whole_tensors(dataclasses.replace(patch, dense=dense, provenance=without_rows), read)


def _predict(head: Head, examples: Sequence[Example], batch_size: int, label: str) -> torch.Tensor:
    """Return (n, n_labels) fp64 logits."""
    logits = head.predict(examples, batch_size=batch_size, label=label)
    if not are_finite(logits, examples):
        raise not_finite(f"validation, {label}")
    return logits.double()


def _find_most(kl: torch.Tensor, examples: Sequence[Example]) -> list[int]:
    """Return the positions of the examples with the largest (n,) divergences; of equal ones the first alone."""
    first: dict[Example, int] = {}
    for i in kl.argsort(descending=True, stable=True).tolist():
        first.setdefault(examples[i], i)
        if len(first) == MOST:
            break
    return list(first.values())


def _describe(head: Head, example: Example, kl: float, before: torch.Tensor, after: torch.Tensor) -> ChangedText:
    labels = example.choices or head.task.labels
    shown = dict.fromkeys([example.label, int(before.argmax()), int(after.argmax())])
    p, q = ({labels[i]: float(row[i]) for i in shown} for row in (before, after))
    return ChangedText(example.texts, kl, labels[example.label], p, q)


def _compare_tokens(head: Head, patch: Patch, examples: Sequence[Example]) -> ChangedTexts:
    """Compare text by text, since a distribution over a vocabulary for every token is too much to keep."""
    if patch.provenance.grown:  # the base reads other tokens than the graft, and no two distributions can be compared
        raise ConfigError("the patch adds tokens to the vocabulary: explain it without a task")
    usable = head.with_outputs(examples)
    prepared, whole = prepare_patch(head.model, patch), _whole_tensors(head, patch)
    base = None if whole is None else prepare_patch(head.model, whole)
    means = []
    with head.evaluating():
        for example in tqdm(usable, desc="base and graft", disable=None, leave=False):
            with contextlib.nullcontext() if base is None else base.apply():
                before = head.outputs([example])
            with prepared.apply():
                after = head.outputs([example])
            means.append(float((divergences(before.logits, after.logits).double() * before.shares).sum()))
    kl = torch.tensor(means, dtype=torch.float64)
    if not bool(kl.isfinite().all()):
        raise not_finite("validation")
    best = _find_most(kl, usable)
    return ChangedTexts(
        len(usable), float(kl.mean()), None, tuple(ChangedText(usable[i].texts, float(kl[i])) for i in best)
    )
