"""Which row of a classifier's head is which label, by its config, its patches and the task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from graft.errors import CheckpointError
from graft.evaluate.curve import measure_curve
from graft.evaluate.evaluation import evaluate_task
from graft.localize.localization import localize_skill
from graft.localize.movement import diff_checkpoints
from graft.patch.merge import merge_patches
from graft.specs.head import HeadSpec
from graft.specs.localize import LocalizeSpec
from graft.tasks.head import open_head
from graft.tasks.heads.classifier import ClassifierHead
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.train.fine_tuning import train_task
from tests.checkpoints import bits_of
from tests.models import MOODS, SIZES, WORDS, bert_tokenizer, toy_examples, toy_spec, write_task

TURNED = tuple(reversed(MOODS))
CLASSIFIER = HeadSpec("classifier")
HEAD: dict[str, Any] = {
    "head": {"kind": "classifier"},
    "ood": {},
    "shots": None,  # which are drawn class by class, and so in the order of the labels
    "train": {"optimizer": "adamw", "lr": 2e-3, "epochs": 6},
}
EXAMPLES = toy_examples(24)


def write(folder: Path, kind: Any = BertForSequenceClassification, **config: Any) -> Path:
    torch.manual_seed(0)
    made = kind(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **SIZES, **config))
    made.save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return folder


def named(folder: Path, names: Sequence[Any] | None, **more: Any) -> Path:
    """The config with other names of rows, and whatever else."""
    file = folder / "config.json"
    config = {key: value for key, value in json.loads(file.read_text()).items() if key not in ("id2label", "label2id")}
    if names is not None:
        config["id2label"] = dict(enumerate(names))
        config["label2id"] = {name: i for i, name in enumerate(names)} if len(set(names)) == len(names) else {}
    file.write_text(json.dumps(config | more))
    return folder


def rows_of(folder: Path, labels: Sequence[str] = MOODS, **how: Any) -> list[int]:
    head = open_head(folder, toy_spec(head=CLASSIFIER, labels=tuple(labels)), **how)
    assert isinstance(head, ClassifierHead)
    return head.rows


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (None, [0, 1]),
        (("LABEL_0", "LABEL_1"), [0, 1]),
        (MOODS, [0, 1]),
        (TURNED, [1, 0]),
        (("GLAD", " Sad"), [1, 0]),
        (("SAD", "Glad"), [0, 1]),
    ],
)
def test_rows_are_read_by_name_and_weights_stay(
    names: Any, rows: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = named(write(tmp_path / "m"), names)
    own = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    capsys.readouterr()
    head = open_head(folder, toy_spec(head=CLASSIFIER))
    said = capsys.readouterr().err
    assert bits_of(head.model) == bits_of(own)
    batch = head.tokenize([example.texts for example in EXAMPLES])
    with torch.no_grad():
        assert torch.allclose(head.predict(EXAMPLES), own(**batch).logits[:, rows], atol=1e-5)
    if rows == [1, 0]:
        listed = f"{', '.join(names)} in m, sad, glad in the task"
        assert said == f"note: labels are matched by name, since their orders differ: {listed}\n"
    else:
        assert said == ""


def test_three_labels_are_permuted_to_their_places(tmp_path: Path) -> None:
    folder = named(write(tmp_path / "m", num_labels=3), ("b", "c", "a"))
    assert rows_of(folder, ("a", "b", "c")) == [2, 0, 1]
    assert rows_of(folder, ("c", "b", "a")) == [1, 0, 2]


@pytest.mark.parametrize(
    ("names", "more", "said"),
    [
        (
            ("up", "down"),
            {},
            r"m: its head has the labels up, down, and the task has sad, glad: give the task the same",
        ),
        (("sad", "glad", "so"), {}, r"its head has the labels sad, glad, so, and the task has sad, glad"),
        (("LABEL_0", "LABEL_1", "LABEL_2"), {}, r"its head has the labels LABEL_0, LABEL_1, LABEL_2, and"),
        (("LABEL_1", "LABEL_0"), {}, r"its head has the labels LABEL_1, LABEL_0, and the task has"),
        (("sad", "sad"), {}, r"its head has the labels sad, sad, and the task has"),
        (("SAD", "sad"), {}, r"its head has the labels SAD, sad, and the task has"),
        (("only",), {}, r"m: its head has one output, as for regression"),
        (MOODS, {"problem_type": "multi_label_classification"}, r"its head is for multi_label_classification, not for"),
        (MOODS, {"problem_type": "regression"}, r"its head is for regression, not for one of several labels"),
        (MOODS, {"label2id": {"glad": 0, "sad": 1}}, r"contradicts itself: id2label has sad, glad, label2id glad, sad"),
        (None, {"id2label": {"1": "sad", "2": "glad"}}, r"its config numbers labels 1, 2, not from 0 without a gap"),
        (
            MOODS,
            {"architectures": ["BertForTokenClassification"]},
            r"names BertForTokenClassification, whose head labels",
        ),
        (MOODS, {"architectures": ["BertForMultipleChoice"]}, r"names BertForMultipleChoice, whose head has one row"),
    ],
)
def test_a_head_for_something_else_is_refused(names: Any, more: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", num_labels=len(names or MOODS))
    assert len(names or MOODS) != 2 or rows_of(named(folder, None)) == [0, 1]
    named(folder, names, **more)
    with pytest.raises(CheckpointError, match=said) as caught:
        rows_of(folder)
    assert "\n" not in str(caught.value)


def test_names_in_label2id_alone_count(tmp_path: Path) -> None:
    folder = named(write(tmp_path / "m"), None, label2id={"glad": 0, "sad": 1})
    assert rows_of(folder) == [1, 0]


@pytest.mark.parametrize("kind", [BertForTokenClassification, BertForQuestionAnswering])
def test_a_head_of_another_kind_is_no_classifier(kind: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", kind)
    with pytest.raises(CheckpointError, match=rf"names {kind.__name__}, whose head"):
        rows_of(folder)
    assert open_head(folder, toy_spec()).predict(EXAMPLES).isfinite().all()  # of which similarity takes the rest


@pytest.mark.parametrize("names", [("up", "down"), ("a", "b", "c")])
def test_training_replaces_a_head_for_other_labels_and_says_so(
    names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = named(write(tmp_path / "base", num_labels=len(names)), names)
    spec = toy_spec(head=CLASSIFIER)
    capsys.readouterr()
    heads = [open_head(base, spec, renew=True, seed=seed).model.classifier.weight for seed in (0, 0, 1)]
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith(
        f"note: a new head is made for sad, glad: base: its head has the labels {', '.join(names)}, "
    )
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    own = AutoModelForSequenceClassification.from_pretrained(base).classifier.weight
    assert own.shape != heads[0].shape or not torch.allclose(own, heads[0], atol=1e-3)
    assert 0.01 < float(heads[0].detach().std()) < 0.03  # as transformers draws them
    task = Task.load(write_task(tmp_path / "task", **HEAD))
    tuned = train_task(base, task, tmp_path / "tuned").path
    assert json.loads((tuned / "config.json").read_text())["id2label"] == {"0": "sad", "1": "glad"}
    assert evaluate_task(tuned, task).n == 80


@pytest.mark.parametrize("more", [{"vocab_size": 7}, {"max_position_embeddings": 8}, {"type_vocab_size": 1}])
def test_a_new_head_hides_nothing_else_that_differs(more: dict[str, int], tmp_path: Path) -> None:
    base = named(write(tmp_path / "base", num_labels=3), ("a", "b", "c"))
    assert open_head(base, toy_spec(head=CLASSIFIER), renew=True).model.config.num_labels == 2
    named(base, ("a", "b", "c"), **more)
    with pytest.raises(CheckpointError, match=r"transformers cannot load it|its config.json asks for"):
        open_head(base, toy_spec(head=CLASSIFIER), renew=True)
    bare = named(write(tmp_path / "bare", BertModel), None)
    assert open_head(bare, toy_spec(head=CLASSIFIER)).model.config.num_labels == 2
    named(bare, None, **more)
    with pytest.raises(CheckpointError, match=r"transformers cannot load it|its config.json asks for"):
        open_head(bare, toy_spec(head=CLASSIFIER))


@pytest.mark.parametrize("kind", ["regression", "tokens"])
def test_training_replaces_a_head_of_another_kind(kind: str, tmp_path: Path) -> None:
    made = BertForTokenClassification if kind == "tokens" else BertForSequenceClassification
    base = write(tmp_path / "base", made, num_labels=5 if kind == "tokens" else 1)
    if kind == "regression":
        named(base, None, problem_type="regression", id2label={"0": "x"})
    task = Task.load(write_task(tmp_path / "task", **HEAD | {"train": {"steps": 1}}))
    tuned = train_task(base, task, tmp_path / "tuned").path
    config = json.loads((tuned / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "sad", "1": "glad"}
    assert config.get("problem_type") in (None, "single_label_classification")
    assert evaluate_task(tuned, task).n == 80


def test_a_head_that_fits_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = named(write(tmp_path / "base"), TURNED)
    task = Task.load(write_task(tmp_path / "task", **HEAD | {"train": {"lr": 1e-9, "steps": 1}}))
    tuned = train_task(base, task, tmp_path / "tuned").path
    assert "a new head" not in capsys.readouterr().err
    config = json.loads((tuned / "config.json").read_text())
    assert config["id2label"] == {"0": "glad", "1": "sad"}  # what its rows are
    before, after = (AutoModelForSequenceClassification.from_pretrained(path).classifier for path in (base, tuned))
    assert torch.allclose(before.weight, after.weight, atol=1e-6)


@pytest.fixture(scope="module")
def trained(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a/ and r/, one task whose labels are listed in two orders, and tuned/, trained on the former."""
    folder = tmp_path_factory.mktemp("trained")
    task = Task.load(write_task(folder / "a", **HEAD))
    write_task(folder / "r", **HEAD | {"labels": list(TURNED)})
    for split in ("train", "validation", "test"):  # names, which mean the same under both
        rows = [json.loads(line) for line in (folder / "a" / f"{split}.jsonl").read_text().splitlines()]
        text = "".join(json.dumps(row | {"label": MOODS[row["label"]]}) + "\n" for row in rows)
        for name in ("a", "r"):
            (folder / name / f"{split}.jsonl").write_text(text)
    train_task(shelf / "base", task, folder / "tuned")
    return folder


def test_accuracy_does_not_depend_on_the_order_of_labels(trained: Path, base: Path, tmp_path: Path) -> None:
    forth, back = (Task.load(trained / name / "task.yaml") for name in ("a", "r"))
    best = evaluate_task(trained / "tuned", forth)["accuracy"]
    assert best > 0.9
    assert evaluate_task(trained / "tuned", back)["accuracy"] == best
    whole = LocalizeSpec("magnitude", density=0.5, scope="all", points=1)
    patches = [localize_skill(base, trained / "tuned", task, whole) for task in (forth, back)]
    patches.append(diff_checkpoints(base, trained / "tuned"))
    for patch in patches:
        assert patch.dense
        assert patch.provenance.task is not None
        assert list(patch.provenance.task["labels"]) == list(MOODS)  # in the order of the rows
        found = {evaluate_task(base, task, patches=(patch,))["accuracy"] for task in (forth, back)}
        assert len(found) == 1
        assert found.pop() > 0.9
        merge_patches(Checkpoint.open(base), [patch], tmp_path / "merged", force=True)
        assert evaluate_task(tmp_path / "merged", back)["accuracy"] > 0.9
    attributed = [
        localize_skill(base, trained / "tuned", task, LocalizeSpec("attribution", budget=500, points=2)).mask
        for task in (forth, back)
    ]
    assert len(attributed[0] & attributed[1]) > 490  # sums over classes are rounded in another order
    curves = [
        measure_curve(base, trained / "tuned", task, LocalizeSpec("magnitude", scope="all"), densities=(0.5,))
        for task in (forth, back)
    ]
    assert curves[0].tuned == curves[1].tuned
    assert curves[0].points[0].accuracy == curves[1].points[0].accuracy > 0.9


def test_a_patch_for_other_labels_is_refused(trained: Path, base: Path, tmp_path: Path) -> None:
    patch = diff_checkpoints(base, trained / "tuned")
    other = Task.load(write_task(tmp_path / "other", **HEAD | {"labels": ["up", "down"]}))
    with pytest.raises(
        CheckpointError, match=r"the patch: its head has the labels sad, glad, and the task has up, down"
    ):
        evaluate_task(base, other, patches=(patch,))
    with pytest.raises(CheckpointError, match=r"tuned: its head has the labels sad, glad, and the task has up, down"):
        localize_skill(base, trained / "tuned", other, LocalizeSpec("magnitude", budget=5))


def test_a_patch_without_a_head_says_what_the_base_does_not(trained: Path, tmp_path: Path) -> None:
    """A base whose rows have no names was tuned on a task: its patch knows them."""
    forth, back = (Task.load(trained / name / "task.yaml") for name in ("a", "r"))
    bare = tmp_path / "bare"
    write(bare)
    tuned = train_task(bare, forth, tmp_path / "tuned").path
    patch = localize_skill(bare, tuned, forth, LocalizeSpec("magnitude", density=0.5, scope="all"))
    assert not patch.dense
    found = [evaluate_task(bare, task, patches=(patch,))["nll"] for task in (forth, back)]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    named(bare, TURNED)
    with pytest.raises(
        CheckpointError, match=r"bare has its head's labels in the order glad, sad, and the patch in the"
    ):
        evaluate_task(bare, forth, patches=(patch,))
