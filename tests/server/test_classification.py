"""Texts of any length in one request: batches stay small, answers are those of each text alone, and cuts are told."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.localize.diff import diff_checkpoints
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.server.classification import Classifier, Question
from graft.server.opening import open_service
from graft.server.resident import Resident
from tests.models import VERBALIZER, toy_rows, write_causal
from tests.server.conftest import SMALL, TASK, with_task
from tests.server.test_classify import write_classifier

SHORT = [row["text"] for row in toy_rows(20, 5)]
LONG = " ".join(SHORT[:4])
TEXTS = [*SHORT[:7], LONG, *SHORT[7:]]
PAIRS = TASK | {"head": {"kind": "similarity", "texts": ["bad {text_b}", "good {text_b}"]}}
TOKENS = 64


def open_with(base: Path, *files: Path) -> Resident:
    limits = dataclasses.replace(SMALL, batch_tokens=TOKENS, texts=256)
    return open_service(str(base), {file.stem: file for file in files}, limits=limits).resident


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Resident:
    """A causal language model with two skills that are read by label words."""
    folder = tmp_path_factory.mktemp("words")
    base, task = write_causal(folder / "base", steps=2), TASK | {"head": VERBALIZER}
    for seed, name in enumerate(("one", "two")):
        patch = diff_checkpoints(base, write_causal(folder / name, seed=seed, steps=3), budget=200)
        save_patch(with_task(patch, task), folder / f"{name}.safetensors")
    return open_with(base, *(folder / f"{name}.safetensors" for name in ("one", "two")))


@pytest.fixture(scope="module")
def heads(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Resident:
    """An encoder with two skills that bring a classification layer."""
    folder = tmp_path_factory.mktemp("heads")
    files = []
    for seed, name in enumerate(("one", "two")):
        files.append(
            write_classifier(shelf, folder / name, ["sad", "glad"], seed).rename(folder / f"{name}.safetensors")
        )
    return open_with(shelf / "base", *files)


@contextlib.contextmanager
def shapes_of(model: torch.nn.Module) -> Iterator[list[tuple[int, int]]]:
    """The rows and tokens of every batch that the model is given."""
    shapes: list[tuple[int, int]] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    hook.remove()


@pytest.mark.parametrize("kind", ["words", "heads"])
def test_one_long_text_pads_no_others(kind: str, request: pytest.FixtureRequest) -> None:
    resident: Resident = request.getfixturevalue(kind)
    asked = [Question((text,), (name,), name) for text in TEXTS for name in ("one", "two")]
    with shapes_of(getattr(resident.head.model, "base_model", resident.head.model)) as shapes:
        together = Classifier(resident).answer(asked)
    assert sum(rows for rows, _ in shapes) == len(asked)
    assert max(rows for rows, _ in shapes) > 2  # the short ones do share batches
    assert all(rows * tokens <= TOKENS or rows == 1 for rows, tokens in shapes)
    alone = [Classifier(resident).answer([question])[0] for question in asked]
    for one, other in zip(together, alone, strict=True):
        assert one.logits == pytest.approx(other.logits, abs=1e-5)
    logits = torch.stack([answer.logits for answer in together])
    assert logits.std(0).min() > 0.01  # they are not all the same


def with_length(resident: Resident, name: str, max_length: int) -> None:
    """Let a skill read no more than so many tokens."""
    skill = resident.skills[name]
    assert skill.task is not None
    spec = dataclasses.replace(skill.task, max_length=max_length)
    resident.remove(name)
    resident.add(dataclasses.replace(skill, task=spec))


@pytest.mark.parametrize(("kind", "most", "fits", "too_long"), [
    ("heads", 6, "good film the was", "good film the was a"),
    ("words", 7, "good film the was", "good film the was a"),  # two words of the template, and nothing closes it
])  # fmt: skip
def test_a_text_that_is_cut_is_told(
    kind: str, most: int, fits: str, too_long: str, request: pytest.FixtureRequest
) -> None:
    resident: Resident = request.getfixturevalue(kind)
    with_length(resident, "one", most)
    asked = [Question((text,), ("one",), "one") for text in (fits, too_long, too_long + " very")]
    answers = Classifier(resident).answer(asked)
    assert [answer.is_cut for answer in answers] == [False, True, True]
    assert answers[1].logits == pytest.approx(answers[2].logits, abs=1e-5)
    assert [answer.is_cut for answer in Classifier(resident).answer(
        [dataclasses.replace(question, skills=("two",), task="two") for question in asked]
    )] == [False] * 3  # fmt: skip


@pytest.mark.parametrize("task", [TASK, PAIRS], ids=["texts", "pairs"])
def test_a_cut_in_what_is_embedded_is_told(
    task: dict[str, Any], shelf: Path, patches: dict[str, Path], tmp_path: Path
) -> None:
    save_patch(with_task(load_patch(patches["moods"]), task), tmp_path / "one.safetensors")
    resident = open_with(shelf / "base", tmp_path / "one.safetensors")
    with_length(resident, "one", 6)
    fits, long = ("good film the was", "good film the was a")
    asked = [(fits,), (long,)] if task is TASK else [(fits, "film the was"), (fits, fits), (long, "film")]
    answers = Classifier(resident).answer([Question(texts, ("one",), "one") for texts in asked])
    assert [answer.is_cut for answer in answers] == [False, True, True][: len(asked)]
