"""What a skill's reference is learned from, and that its threshold accepts what it says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from graft.errors import ConfigError, DataError
from graft.mixture.routing.learning import fewest_held_out, learn_reference, learn_task_reference
from graft.tasks.task import Task
from tests.mixture.routing.planted import own_texts, plant

BANK = own_texts("bank", 60)


@settings(deadline=None, max_examples=30)
@given(accept=some.sampled_from([0.5, 0.8, 0.9, 0.95]), n=some.integers(19, 90), start=some.integers(100, 10_000))
def test_a_threshold_accepts_its_share_of_the_held_out_texts_and_hardly_more(accept: float, n: int, start: int) -> None:
    held_out = own_texts("bank", n, start)
    reference = learn_reference(plant, BANK, held_out, accept=accept)
    accepted = int((reference.score(plant(held_out)) >= reference.threshold).sum())
    assert accept * n <= accepted <= accept * n + 2  # scores here have no ties
    assert reference.n_held_out == n


def test_new_texts_are_accepted_as_often_as_promised() -> None:
    # over many draws of held-out texts the mean is accept + less than 1 / (n + 1)
    shares = []
    for draw in range(40):
        reference = learn_reference(plant, BANK, own_texts("bank", 19, 100 + 19 * draw), accept=0.9)
        new = reference.score(plant(own_texts("bank", 100, 10_000 + 100 * draw)))
        shares.append(float((new >= reference.threshold).double().mean()))
    assert sum(shares) / len(shares) == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize(("accept", "n"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_fewer_held_out_texts_than_a_threshold_takes_are_refused(accept: float, n: int) -> None:
    assert fewest_held_out(accept) == n
    learn_reference(plant, BANK, own_texts("bank", n, 100), accept=accept)
    with pytest.raises(DataError, match=f"to accept {accept:.0%} takes {n} held-out texts or more, not {n - 1}"):
        learn_reference(plant, BANK, own_texts("bank", n - 1, 100), accept=accept)


def test_held_out_texts_that_were_learned_from_do_not_count() -> None:
    both = learn_reference(plant, BANK, [*own_texts("bank", 30, 100), *BANK])
    apart = learn_reference(plant, BANK, own_texts("bank", 30, 100))
    assert (both.threshold, both.n_held_out) == (apart.threshold, 30)
    with pytest.raises(DataError, match="takes 19 held-out texts or more, not 0"):
        learn_reference(plant, BANK, BANK)


def test_a_skill_without_texts_is_refused_in_one_line() -> None:
    for texts in ([], ["bank/1"] * 50):
        n = len(set(texts))
        with pytest.raises(DataError, match=f"needs 20 different texts or more to learn from, not {n}$"):
            learn_reference(plant, texts, own_texts("bank", 30, 100))
    for accept in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="above 0 and below 1"):
            learn_reference(plant, BANK, own_texts("bank", 30, 100), accept=accept)


def test_repeated_texts_count_once() -> None:
    once = learn_reference(plant, BANK, own_texts("bank", 30, 100))
    often = learn_reference(plant, [*BANK, *BANK[:5]], own_texts("bank", 30, 100) * 2)
    assert once.threshold == often.threshold
    assert torch.equal(once.subspace.mean, often.subspace.mean)


def test_a_task_gives_its_training_and_validation_texts() -> None:
    train, validation = own_texts("bank", 60), own_texts("bank", 30, 100)
    rows = {
        split: [{"text": text, "label": i % 2} for i, text in enumerate(texts)] + [{"text": "far away", "label": -1}]
        for split, texts in (("train", train), ("validation", validation))
    }
    task = Task.of(name="accounts", labels=["open", "closed"], **rows)
    learned, expected = learn_task_reference(plant, task), learn_reference(plant, train, validation)
    assert learned.threshold == expected.threshold
    assert torch.equal(learned.subspace.mean, expected.subspace.mean)
    few = Task.of(
        name="few", labels=["open", "closed"], head="similarity", train=rows["train"], validation=rows["train"]
    )
    with pytest.raises(DataError, match="task 'few': to accept 95% takes 19 held-out texts or more, not 0"):
        learn_task_reference(plant, few)
