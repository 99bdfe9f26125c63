"""Which head reads whose labels: heads that patches bring, over rows of any skills, and the base's own layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
)

from graft.evaluate.evaluation import predict_examples
from graft.evaluate.temperature import fit_temperature
from graft.localize.diff import diff_checkpoints
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.server.opening import open_service
from graft.server.skill import read_skill
from graft.specs.head import HeadSpec
from graft.tasks.head import open_head
from graft.tasks.label_order import rows_in
from graft.tasks.task import Task
from tests.models import (
    MASKABLE,
    VERBALIZER,
    WORDS,
    bert_tokenizer,
    toy_spec,
    word_tokenizer,
    write_masked,
    write_task,
)
from tests.server.client import running
from tests.server.conftest import SMALL, with_task
from tests.server.test_classify import TEXTS, difference, probabilities_of, write_classifier

LABELS = {"two": ["sad", "glad"], "other": ["up", "down"], "three": ["wry", "glad", "sad"]}


@pytest.fixture(scope="module")
def heads(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three patches that bring heads, two for two labels each and one for three."""
    folder = tmp_path_factory.mktemp("heads")
    return {
        name: write_classifier(shelf, folder / name, labels, seed) for seed, (name, labels) in enumerate(LABELS.items())
    }


def read_by(head: Path, skills: Sequence[Path], shelf: Path) -> np.ndarray:
    """Probabilities by one patch's head over the base with the entries of others, by transformers alone."""
    model = BertForSequenceClassification.from_pretrained(head.parent / "tuned").eval()
    model.bert.load_state_dict(BertModel.from_pretrained(shelf / "base").state_dict())
    bodies = [dataclasses.replace(load_patch(path), dense={}) for path in skills]
    with apply_patch(model, *bodies, on_overlap="last"), torch.no_grad():
        logits = [model(**bert_tokenizer()(text, return_tensors="pt")).logits[0] for text in TEXTS]
    return torch.stack(logits).double().softmax(-1).numpy()


@pytest.mark.parametrize("task", ["two", "three"])
def test_labels_are_read_by_the_head_of_their_task(task: str, heads: dict[str, Path], shelf: Path) -> None:
    """As the page asks: one task over every skill that is switched on, the base among them."""
    skills = ["base", "other", "two", "three", "two+other"]
    with running(open_service(str(shelf / "base"), heads, limits=SMALL, on_overlap="last")) as client:
        results = client.post("/classify", texts=TEXTS[:6], skills=skills, task=task)["results"]
    order = [LABELS[task].index(label) for label in sorted(LABELS[task])]
    answers = []
    for skill, result in zip(skills, results, strict=True):
        assert result["labels"] == sorted(LABELS[task])
        carried = [heads[name] for name in skill.split("+") if name != "base"]
        answers.append(read_by(heads[task], carried, shelf)[:6, order])
        assert difference(result, answers[-1]) < 1e-5
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


def test_a_head_that_a_patch_brings_is_calibrated(heads: dict[str, Path], shelf: Path, tmp_path: Path) -> None:
    file = write_task(tmp_path / "task", head={"kind": "classifier"})
    two = heads["two"]
    service = open_service(str(shelf / "base"), {"two": two}, tasks={"two": file}, calibrate=True, limits=SMALL)
    patch, task = _as_recorded(load_patch(two), LABELS["two"]), Task.load(file)
    evaluated = open_head(shelf / "base", task.spec, rows=rows_in([patch], task.spec))
    with apply_patch(evaluated.model, patch):
        expected = fit_temperature(predict_examples(evaluated, task.validation_examples(), 64, "validation"))
    assert service.resident.skills["two"].temperature == pytest.approx(expected, rel=1e-3)


def _as_recorded(patch: Patch, rows: list[str]) -> Patch:
    return with_task(patch, {**(patch.provenance.task or {}), "labels": rows})


@pytest.mark.parametrize("recorded", [None, 0, WORDS.index("film")])
def test_a_decoder_s_head_reads_what_evaluation_reads(recorded: int | None, tmp_path: Path) -> None:
    """Whatever padding the patch records, with a tokenizer that pads with the end of texts and tells segments."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS), n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2)
    tokenizer = word_tokenizer(eos_token="[SEP]", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    names: dict[str, Any] = {"id2label": dict(enumerate(LABELS["two"])), "label2id": {"sad": 0, "glad": 1}}
    tuned = GPT2ForSequenceClassification.from_pretrained(tmp_path / "base", pad_token_id=recorded, **names)
    with torch.no_grad():
        for weight in tuned.transformer.h.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    tuned.save_pretrained(tmp_path / "tuned")
    for folder in ("base", "tuned"):
        tokenizer.save_pretrained(tmp_path / folder)
    patch = diff_checkpoints(tmp_path / "base", tmp_path / "tuned", budget=300)
    task = {**(patch.provenance.task or {}), "name": "moods"}
    patch = with_task(patch, task | {"head": task["head"] | {"kind": "classifier"}})
    save_patch(patch, tmp_path / "two.safetensors")
    spec = toy_spec(head=HeadSpec("classifier"))
    head = open_head(tmp_path / "base", spec, rows=rows_in([patch], spec))
    expected = probabilities_of(head, [tmp_path / "two.safetensors"])
    service = open_service(str(tmp_path / "base"), {"two": tmp_path / "two.safetensors"}, limits=SMALL)
    with running(service) as client:
        (together,) = client.post("/classify", texts=TEXTS, skill="two")["results"]
        alone = [client.post("/classify", texts=[text], skill="two")["results"][0]["predictions"][0] for text in TEXTS]
    assert difference(together, expected) < 1e-5
    assert difference({"predictions": alone}, expected) < 1e-5


def write_own(shelf: Path, folder: Path, names: Sequence[str] | None) -> Path:
    """A base with a classification layer of its own for two labels, which its config names or does not."""
    torch.manual_seed(3)
    model = BertForSequenceClassification.from_pretrained(shelf / "base", num_labels=2)
    with torch.no_grad():
        model.classifier.weight.mul_(20)
    _name(model, names)
    return _save(model, folder / "base")


def _name(model: Any, names: Sequence[str] | None) -> None:
    if names is not None:
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: row for row, name in enumerate(names)}


def _save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return folder


def write_skill(base: Path, name: str, labels: Sequence[str] | None, *, layer: bool) -> Path:
    """A patch of the encoder, and of the classification layer where it says so: in place, or another of more labels."""
    torch.manual_seed(sum(map(ord, name)))
    size = {} if labels is None or not layer else {"num_labels": len(labels), "ignore_mismatched_sizes": True}
    tuned = BertForSequenceClassification.from_pretrained(base, **size)
    with torch.no_grad():
        for weight in tuned.bert.encoder.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
        if layer:
            tuned.classifier.weight.normal_().mul_(0.5)
    _name(tuned, labels if layer else None)
    patch = diff_checkpoints(base, _save(tuned, base.parent / name), budget=400)
    task = {**(patch.provenance.task or {}), "name": name}
    if labels is not None:
        task |= {"labels": list(labels), "head": {**task.get("head", {}), "kind": "classifier"}}
    file = base.parent / f"{name}.safetensors"
    save_patch(with_task(patch, task), file)
    return file


def grafted(base: Path, *files: Path) -> np.ndarray:
    """Probabilities of the base with patches, in the order of the layer's rows, by transformers alone."""
    model = BertForSequenceClassification.from_pretrained(base).eval()
    with apply_patch(model, *map(load_patch, files), on_overlap="last"), torch.no_grad():
        logits = [model(**bert_tokenizer()(text, return_tensors="pt")).logits[0] for text in TEXTS]
    return torch.stack(logits).double().softmax(-1).numpy()


def test_labels_of_the_base_s_own_layer_are_matched_by_name(shelf: Path, tmp_path: Path) -> None:
    """In the task's order, calibrated so too; a task of other labels is none for this layer."""
    base = write_own(shelf, tmp_path, ["glad", "sad"])
    skill = write_skill(base, "body", None, layer=False)
    tasks = {
        name: write_task(tmp_path / name, head={"kind": "classifier"}, labels=labels, ood={}, train={})
        for name, labels in {"more": ["x", "y", "z"], "others": ["up", "down"]}.items()
    }
    tasks["body"] = write_task(tmp_path / "task", head={"kind": "classifier"}, train={})
    own = open_service(str(base), {"body": skill}, tasks={"body": tasks["body"]}, calibrate=True, limits=SMALL)
    temperature = own.resident.skills["body"].temperature
    task = Task.load(tasks["body"])
    evaluated = open_head(base, task.spec)
    with apply_patch(evaluated.model, load_patch(skill)):
        expected = fit_temperature(predict_examples(evaluated, task.validation_examples(), 64, "validation"))
    assert temperature == pytest.approx(expected, rel=1e-3)
    files = dict.fromkeys(("body", "more", "others"), skill)
    with running(open_service(str(base), files, tasks=tasks, limits=SMALL)) as client:
        results = client.post("/classify", texts=TEXTS, skills=["body", "base"], task="body")["results"]
        for name, labels in (("more", "x, y, z"), ("others", "up, down")):
            status, line = client.refusal("/classify", texts=["good"], skill=name)
            assert (status, f"its head has the labels glad, sad, and the task has {labels}" in line) == (422, True)
    for result, patches in zip(results, ([skill], []), strict=True):
        assert result["labels"] == ["sad", "glad"]
        assert difference(result, grafted(base, *patches)[:, ::-1]) < 1e-5


def test_rows_that_a_skill_changes_for_its_labels_are_read_as_no_others(shelf: Path, tmp_path: Path) -> None:
    base = write_own(shelf, tmp_path, None)
    files = {
        "mood": write_skill(base, "mood", ["sad", "glad"], layer=True),
        "way": write_skill(base, "way", ["up", "down"], layer=True),
        "body": write_skill(base, "body", None, layer=False),
        "mute": tmp_path / "mute.safetensors",  # the same as way, which says what the rows are and not how it is read
    }
    way = load_patch(files["way"])
    task = dict(way.provenance.task or {})
    head = {key: value for key, value in task["head"].items() if key != "kind"}
    save_patch(with_task(way, task | {"head": head}), files["mute"])
    tasks = {"body": write_task(tmp_path / "task", head={"kind": "classifier"}, train={})}
    service = open_service(str(base), files, tasks=tasks, limits=SMALL, on_overlap="last")
    asked, texts = ["mood", "body", "base", "mood+body"], TEXTS[:8]
    with running(service) as client:
        results = client.post("/classify", texts=texts, skills=asked, task="mood")["results"]
        own = client.post("/classify", texts=texts, skill="way")["results"][0]
        for skill, name in (("way", "mood"), ("mood+way", "mood"), ("way+body", "body"), ("mood", "way"),
                            ("mute", "mood"), ("body+mute", "mood")):  # fmt: skip
            status, line = client.refusal("/classify", texts=["good"], skill=skill, task=name)
            other = "sad, glad" if name == "way" else "up, down"
            assert (status, f"the labels of {name!r} cannot be read" in line, other in line) == (422, True, True)
        assert client.post("/classify", texts=texts, skill="mute", task="way")["results"][0]["labels"] == ["up", "down"]
        service.resident.remove("way")
        service.resident.add(read_skill("way", files["body"], "x"))
        client.post("/classify", texts=texts, skill="way", task="mood")
    assert own["labels"] == ["up", "down"]
    assert difference(own, grafted(base, files["way"])[:8]) < 1e-5
    for skill, result in zip(asked, results, strict=True):
        assert result["labels"] == ["sad", "glad"]
        patches = [files[name] for name in skill.split("+") if name != "base"]
        assert difference(result, grafted(base, *patches)[:8]) < 1e-5


def test_a_layer_made_anew_for_a_patch_is_read_with_it_alone(shelf: Path, tmp_path: Path) -> None:
    """The base's own rows are gone, as there is one layer and the patch's has more."""
    base = write_own(shelf, tmp_path, ["sad", "glad"])
    files = {
        "three": write_skill(base, "three", LABELS["three"], layer=True),
        "body": write_skill(base, "body", None, layer=False),
    }
    tasks = {"body": write_task(tmp_path / "task", head={"kind": "classifier"}, train={})}
    with running(open_service(str(base), files, tasks=tasks, limits=SMALL)) as client:
        result = client.post("/classify", texts=TEXTS, skill="three")["results"][0]
        assert (result["labels"], len(result["predictions"][0]["probabilities"])) == (LABELS["three"], 3)
        for skill, task in (("base", "three"), ("body", "three"), ("body", "body")):
            status, line = client.refusal("/classify", texts=["good"], skill=skill, task=task)
            assert (status, "layer has no rows of these labels" in line) == (422, True), line


def test_words_are_read_where_the_model_predicts_words(tmp_path: Path) -> None:
    """A masked base that was opened without a skill has no layer for them."""
    base = write_masked(tmp_path / "base", steps=1)
    model = AutoModelForMaskedLM.from_pretrained(base)
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(tmp_path / "tuned")
    word_tokenizer(MASKABLE, pad_token="[PAD]", mask_token="[MASK]").save_pretrained(tmp_path / "tuned")
    task = {"name": "moods", "head": VERBALIZER, "labels": ["sad", "glad"]}
    file = tmp_path / "words.safetensors"
    save_patch(with_task(diff_checkpoints(base, tmp_path / "tuned", budget=300), task), file)
    late, early = open_service(str(base), limits=SMALL), open_service(str(base), {"words": file}, limits=SMALL)
    late.resident.add(read_skill("words", file, "x"))
    with running(late) as client:
        (listed,) = client.http.get("/skills").json()["skills"]
        status, line = client.refusal("/classify", texts=["good"], skill="words")
    assert (listed["task"], status) == (None, 422)
    assert "only where the server was opened with one" in line
    with running(early) as client:
        client.post("/classify", texts=["good"], skill="words")
