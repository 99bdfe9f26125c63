"""/classify: probabilities of each skill's own labels, as its grafted model gives them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification, BertModel

from graft.localize.diff import diff_checkpoints
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.server.opening import open_service
from graft.specs.head import HeadSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from tests.models import TEXTS as LABEL_TEXTS
from tests.models import VERBALIZER, bert_tokenizer, toy_rows, toy_spec, write_causal
from tests.server.client import Client, running
from tests.server.conftest import SMALL, with_task

TEXTS = [row["text"] for row in toy_rows(10, 5)]


def probabilities_of(head: Head, patches: list[Path], temperature: float = 1.0) -> np.ndarray:
    with apply_patch(head.model, *map(load_patch, patches), on_overlap="last"):
        logits = torch.cat([head.predict([Example((text,), 0)]) for text in TEXTS])
    return (logits.double() / temperature).softmax(-1).numpy()


def difference(result: dict[str, Any], expected: np.ndarray) -> float:
    found = np.array([item["probabilities"] for item in result["predictions"]])
    return float(np.abs(found - expected).max())


@pytest.fixture(scope="module")
def head(shelf: Path) -> Head:
    return open_head(shelf / "base", toy_spec())


@pytest.mark.parametrize("skill", ["moods", "few", "moods+noise", "base"])
def test_probabilities_are_those_of_the_grafted_model(
    client: Client, head: Head, patches: dict[str, Path], skill: str
) -> None:
    used = [patches[name] for name in skill.split("+") if name != "base"]
    (result,) = client.post("/classify", texts=TEXTS, skill=skill, task="moods")["results"]
    assert (result["skill"], result["task"], result["labels"]) == (skill, "moods", ["sad", "glad"])
    assert (result["calibration"], result["temperature"]) == ("none", None)
    expected = probabilities_of(head, used)
    assert difference(result, expected) < 1e-5
    for item, row in zip(result["predictions"], expected, strict=True):
        assert item["label"] == ["sad", "glad"][int(row.argmax())]
        assert abs(item["confidence"] - row.max()) < 1e-5


def test_several_skills_stand_beside_each_other(client: Client, head: Head, patches: dict[str, Path]) -> None:
    body = {"texts": TEXTS, "skills": ["base", "moods", "few"], "task": "moods"}
    results = client.post("/classify", **body)["results"]
    assert [result["skill"] for result in results] == body["skills"]
    expected = [probabilities_of(head, [patches[name]] if name != "base" else []) for name in body["skills"]]
    assert max(difference(*pair) for pair in zip(results, expected, strict=True)) < 1e-5
    assert np.abs(expected[0] - expected[1]).max() > 0.01


def test_an_answer_says_whether_its_text_was_cut(client: Client) -> None:
    """The base has places for 32 tokens, two of which are the tokenizer's own."""
    texts = ["the " * 30, "the " * 31]
    results = client.post("/classify", texts=texts, skills=["moods", "few"])["results"]
    assert [[item["cut"] for item in result["predictions"]] for result in results] == [[False, True]] * 2


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ({"texts": ["x"], "skill": "noise"}, 422, "skill 'noise' has no labels to read: the patch records no head"),
        ({"texts": ["x"], "skill": "base"}, 422, "the base has no labels of its own"),
        ({"texts": ["x"], "skill": "none"}, 404, "there is no skill 'none'; there are: base, moods"),
        ({"texts": ["x"]}, 400, "name one skill, or a list of skills"),
        ({"texts": [], "skill": "moods"}, 400, "1 to 32 texts, not 0"),
        ({"texts": ["x"] * 20, "skills": ["moods", "few"]}, 400, "1 to 32 texts, not 40"),
        ({"texts": [["a", "b"]], "skill": "moods"}, 400, "skill 'moods' reads one text, and was given 2"),
        ({"texts": [["a", "b", "c"]], "skill": "moods"}, 400, "each must be a text, or a pair of texts"),
        ({"texts": [1], "skill": "moods"}, 400, "texts[0]"),
        ({"texts": ["x"], "skill": "moods", "speed": 3}, 400, "unknown key 'speed'"),
        ({"texts": ["film " * 28] * 20, "skill": "moods"}, 400, "600 tokens are more than 500 in one request"),
        ({"texts": ["film " * 28] * 9, "skills": ["moods", "few"]}, 400, "are more than 500 in one request"),
        ({"texts": ["x"], "skill": "", "task": "moods"}, 404, "there is no skill ''"),
        ({"texts": ["x"], "skill": "moods", "task": ""}, 404, "there is no skill ''"),
        ({"texts": ["x"], "skill": "moods+few+noise+moods+x+y+z"}, 400, "6 skills together are more than 4"),
    ],
)
def test_what_cannot_be_answered_is_refused(client: Client, body: dict[str, Any], status: int, line: str) -> None:
    found, message = client.refusal("/classify", **body)
    assert found == status, message
    assert line in message


def test_no_more_is_composed_for_a_request_than_is_kept(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.server.routes.classify.MOST_COMPOSED", 2)
    sets = ["moods+few", "few+moods", "moods", "few+noise"]
    status, message = client.refusal("/classify", texts=["good"], skills=sets)
    assert (status, message) == (400, "3 compositions of skills in one request are more than 2")
    assert client.post("/classify", texts=["good"], skills=sets[:3])["results"]


def test_a_temperature_of_the_task_calibrates(shelf: Path, patches: dict[str, Path], head: Head) -> None:
    tasks = {"moods": shelf / "toy" / "task.yaml"}
    service = open_service(str(shelf / "base"), {"moods": patches["moods"]}, tasks=tasks, calibrate=True, limits=SMALL)
    with running(service) as client:
        (result,) = client.post("/classify", texts=TEXTS, skill="moods")["results"]
    temperature = service.resident.skills["moods"].temperature
    assert temperature is not None
    assert abs(temperature - 1) > 0.05
    assert (result["calibration"], result["temperature"]) == ("temperature", temperature)
    assert difference(result, probabilities_of(head, [patches["moods"]], temperature)) < 1e-5


@pytest.fixture(scope="module")
def verbalized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model, and two patches of the same labels by words."""
    folder = tmp_path_factory.mktemp("verbalized")
    write_causal(folder / "base", steps=5)
    task = {"name": "moods", "head": VERBALIZER, "labels": ["sad", "glad"]}
    for seed, name in enumerate(("one", "two")):
        write_causal(folder / name, steps=8 + seed)
        patch = diff_checkpoints(folder / "base", folder / name, budget=300)
        save_patch(with_task(patch, task), folder / f"{name}.safetensors")
    return folder


def test_words_of_a_language_model_are_labels(verbalized: Path) -> None:
    files = {name: verbalized / f"{name}.safetensors" for name in ("one", "two")}
    head = open_head(verbalized / "base", toy_spec(head=HeadSpec("verbalizer", **_without_kind())))
    with running(open_service(str(verbalized / "base"), files, limits=SMALL)) as client:
        results = client.post("/classify", texts=TEXTS, skills=["one", "two", "base"], task="one")["results"]
        client.openai.completions.create(model="one", prompt="the film was", max_tokens=2)
        embedded = client.openai.embeddings.create(model="two", input=TEXTS)
    for result, name in zip(results, ("one", "two", None), strict=True):
        assert difference(result, probabilities_of(head, [files[name]] if name else [])) < 1e-5
    assert len(embedded.data) == len(TEXTS)


def _without_kind() -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in VERBALIZER.items() if key != "kind"
    }


def write_classifier(shelf: Path, folder: Path, labels: list[str], seed: int) -> Path:
    """A patch that brings a head for labels, of an encoder that was moved a little."""
    torch.manual_seed(seed)
    tuned = BertForSequenceClassification.from_pretrained(shelf / "base", num_labels=len(labels))
    tuned.config.id2label = dict(enumerate(labels))
    tuned.config.label2id = {label: row for row, label in enumerate(labels)}
    with torch.no_grad():
        for weight in tuned.bert.encoder.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
        tuned.classifier.weight.mul_(20)  # so that probabilities differ
    tuned.save_pretrained(folder / "tuned")
    bert_tokenizer().save_pretrained(folder / "tuned")
    patch = diff_checkpoints(shelf / "base", folder / "tuned", budget=300)
    task = dict(patch.provenance.task or {}) | {"name": "moods", "labels": sorted(labels)}
    task["head"] = dict(task.get("head") or {}) | {"kind": "classifier"}
    save_patch(with_task(patch, task), folder / "head.safetensors")
    return folder / "head.safetensors"


def test_patches_can_bring_their_own_heads(shelf: Path, patches: dict[str, Path], tmp_path: Path) -> None:
    """Two of them with other numbers of labels, in an order of their own, beside a skill that is read by similarity."""
    names = {"two": ["sad", "glad"], "three": ["wry", "glad", "sad"]}
    files = {
        name: write_classifier(shelf, tmp_path / name, labels, seed)
        for seed, (name, labels) in enumerate(names.items())
    }
    service = open_service(str(shelf / "base"), {**files, "moods": patches["moods"]}, limits=SMALL)
    with running(service) as client:
        results = client.post("/classify", texts=TEXTS, skills=["two", "three", "moods"])["results"]
        assert len(client.openai.embeddings.create(model="three", input=TEXTS).data) == len(TEXTS)
    for result, (name, labels) in zip(results, names.items(), strict=False):
        assert result["labels"] == sorted(labels)
        expected = classified(tmp_path / name / "tuned", load_patch(files[name]), shelf)
        assert difference(result, expected[:, [labels.index(label) for label in sorted(labels)]]) < 1e-5
    assert results[2]["labels"] == ["sad", "glad"]


def classified(tuned: Path, patch: Patch, shelf: Path) -> np.ndarray:
    """Probabilities of the base with a patch and its head on, by transformers alone."""
    model = BertForSequenceClassification.from_pretrained(tuned).eval()
    model.bert.load_state_dict(BertModel.from_pretrained(shelf / "base").state_dict())
    with apply_patch(model, patch), torch.no_grad():
        logits = [model(**bert_tokenizer()(text, return_tensors="pt")).logits[0] for text in TEXTS]
    return torch.stack(logits).double().softmax(-1).numpy()


assert LABEL_TEXTS == ("bad sorry", "good happy")  # those of the conftest's task


def test_labels_are_those_of_the_skill_that_answered(
    shelf: Path, patches: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another skill gets the name between the answer and its being written."""
    service = open_service(str(shelf / "base"), {"moods": patches["moods"]}, limits=SMALL)
    skills, run = service.resident.skills, service.run
    task = skills["moods"].task
    assert task is not None

    async def run_and_replace(job: Any, request: Any) -> Any:
        answers = await run(job, request)
        other = dataclasses.replace(task, labels=("up", "down"))
        skills["moods"] = dataclasses.replace(skills["moods"], task=other, temperature=7.0)
        return answers

    monkeypatch.setattr(service, "run", run_and_replace)
    with running(service) as client:
        found = client.post("/classify", texts=["good"], skill="moods")["results"][0]
    assert found["labels"] == list(task.labels)
    assert found["temperature"] is None
