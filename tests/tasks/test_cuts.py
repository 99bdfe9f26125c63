"""How many texts are longer than a head reads: counted as they are read, said once a set, and part of the report."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.evaluate.evaluation import evaluate_task, predict_examples, predict_task
from graft.scores.gradient_path import GradientPath
from graft.specs.head import HeadSpec
from graft.specs.runtime import Runtime
from graft.tasks import batches, loading
from graft.tasks.batches import encode_texts
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from graft.train.multitask_data import MultiTaskData
from tests.chat_models import write_answers
from tests.models import VERBALIZER, toy_examples, toy_rows, toy_spec, write_choices, write_rows, write_task
from tests.tasks.test_every_head import write_texts


def write_pairs(folder: Path, head: dict[str, Any]) -> Path:
    """Two texts a row, of which the second is the longer one."""
    path = write_task(folder, text=["text", "more"], head=head, ood={})
    for seed, split in enumerate(("train", "validation", "test")):
        rows = toy_rows(48, seed)
        more = [" ".join([row["text"]] * (number % 2 + 1)) for number, row in enumerate(rows)]
        write_rows(folder / f"{split}.jsonl", [row | {"more": text} for row, text in zip(rows, more, strict=True)])
    return path


def lengths_of(head: Head, examples: list[Example]) -> list[int]:
    """The most tokens that a model reads at once of each example: of its text, or of one of its choices."""
    return [max(int(batch["attention_mask"].sum(1).max()) for batch in head.inputs([example])) for example in examples]


CASES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "similarity": ("base", write_task),
    "similarity of pairs": (
        "base",
        lambda folder: write_pairs(folder, {"kind": "similarity", "texts": ["no {text_b}", "yes {text_b}"]}),
    ),
    "similarity with choices": ("base", lambda folder: write_choices(folder, head={"kind": "similarity"})),
    "classifier": ("base", lambda folder: write_task(folder, head={"kind": "classifier"})),
    "classifier of pairs": ("base", lambda folder: write_pairs(folder, {"kind": "classifier"})),
    "masked verbalizer": ("masked", lambda folder: write_task(folder, head=VERBALIZER)),
    "causal verbalizer": ("causal", lambda folder: write_task(folder, head=VERBALIZER)),
    "choice": ("causal", write_choices),
}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_told", set())


def cut_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was said of cut texts since the last call."""
    return re.findall(r"(\S+, \S+: [\d,]+ of [\d,]+ texts are cut to .*)", capsys.readouterr().err)


@pytest.mark.parametrize("case", CASES)
def test_each_head_counts_what_it_cuts_and_says_so_once(
    case: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    fixture, write = CASES[case]
    task = Task.load(write(tmp_path / "task"))
    whole, examples = open_head(request.getfixturevalue(fixture), task.spec), task.test_examples()
    lengths = lengths_of(whole, examples)
    limit = sorted(lengths)[len(lengths) // 2]
    n_cut = sum(length > limit for length in lengths)
    assert 0 < n_cut < len(examples)  # some have exactly as many tokens as they may
    head = type(whole).on(whole, dataclasses.replace(task.spec, max_length=limit))
    assert predict_examples(whole, examples, 7, "test").n_cut == 0
    assert cut_lines(capsys) == []
    assert [predict_examples(head, examples, size, name).n_cut for size, name in ((7, "test"), (64, "seed 2"))] == [
        n_cut,
        n_cut,
    ]
    assert cut_lines(capsys) == [f"moods, test: {n_cut} of {len(examples)} texts are cut to {limit} tokens, max_length"]
    head.inspect(examples[::-1], "train")  # the same set
    assert cut_lines(capsys) == []
    head.inspect(examples[:-1], "train")
    assert [line.split(":")[0] for line in cut_lines(capsys)] == ["moods, train"]
    assert head.count_cut(examples) == n_cut


def test_a_report_has_the_count_of_every_set(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task.load(write_task(tmp_path / "task"))
    head = open_head(base, task.spec)
    lengths = lengths_of(head, task.test_examples())
    short = dataclasses.replace(task.spec, max_length=max(lengths) - 1)
    report = predict_task(type(head).on(head, short), task).report()
    assert report.to_json()["n_cut"] == report.n_cut == lengths.count(max(lengths))
    assert "n_cut" not in evaluate_task(base, task).to_json()
    meals = lengths_of(head, task.ood_examples("meals"))
    assert report.ood["meals"].n_cut == sum(length > short.max_length for length in meals) > 0
    assert len(cut_lines(capsys)) >= 2


def test_evaluation_reads_every_text_once(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples, read = toy_examples(20), []
    head = open_head(base, toy_spec(max_length=4))
    run = batches.run_tokenizer

    def count(tokenizer: Any, texts: list[str], **options: Any) -> Any:
        read.extend(texts)
        return run(tokenizer, texts, **options)

    monkeypatch.setattr(batches, "run_tokenizer", count)
    assert predict_examples(head, examples, 6, "test").n_cut > 0
    labels = [text for (text,) in head.label_texts]  # type: ignore[attr-defined]
    assert sorted(read) == sorted([*labels, *(example.texts[0] for example in examples)])


def test_training_and_localization_say_it_before_they_begin(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Task.load(write_task(tmp_path / "task", max_length=4))
    MultiTaskData.open(base, [task], Runtime(), 0)
    said = cut_lines(capsys)
    assert [line.split(":")[0] for line in said] == ["moods, train", "moods, validation"]
    pair = CheckpointPair.open(base, tuned)
    head, examples = open_head(base, task.spec), task.test_examples(30)
    GradientPath(head, pair, list(pair.names), examples)
    assert [line.split(":")[0] for line in cut_lines(capsys)] == ["moods, train"]


def test_a_limit_that_is_not_the_task_s_is_said_to_be_the_model_s(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = open_head(base, toy_spec(max_length=1000))
    head.inspect([Example(("the film " * 100,), 0)], "test")
    (line,) = cut_lines(capsys)
    assert line.endswith(f"1 of 1 texts are cut to {head.limit} tokens, the longest input of model and tokenizer")


def test_label_texts_that_are_cut_are_said_apart(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, long = "the sad film", "the glad film and the good film"
    head = open_head(base, toy_spec(max_length=6, head=HeadSpec(texts=(short, long))))
    capsys.readouterr()
    for seed in (1, 2):
        assert predict_examples(head, [Example(("good film",), 0)] * 3, 2, f"seed {seed}").n_cut == 0
    assert capsys.readouterr().err.splitlines() == ["moods: 1 of 2 label texts are cut to 6 tokens, max_length"]


def test_texts_in_chunks_are_not_cut_and_answers_have_their_own_line(
    causal: Path, chatting: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = Task.load(write_texts(tmp_path / "texts", max_length=4))
    reader = open_head(causal, texts.spec)
    capsys.readouterr()
    assert predict_task(reader, texts).test.n_cut == 0
    assert capsys.readouterr().err == ""
    answers = Task.load(write_answers(tmp_path / "answers"))
    head: Head = open_head(chatting, answers.spec)
    examples = answers.test_examples()
    lengths = sorted(len(row.ids) for row in head.read(examples))
    head = type(head).on(head, dataclasses.replace(answers.spec, max_length=lengths[-1] - 1))
    n_cut = lengths.count(lengths[-1])
    capsys.readouterr()
    assert predict_examples(head, examples, 8, "test").n_cut == n_cut < len(examples)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{n_cut} of {len(examples)} answers are cut")


def test_a_tokenizer_in_python_counts_too() -> None:
    from transformers import ByT5Tokenizer

    encoded = encode_texts(ByT5Tokenizer(), [("abcd",), ("abcde",), ("abcdef",)], 6)  # a token a byte, and the end
    assert [(len(row.ids), row.is_cut) for row in encoded] == [(5, False), (6, False), (6, True)]
