"""A merged folder loads in transformers with the head that its patches bring, whatever the head."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import BertForSequenceClassification, LlamaForSequenceClassification, ViTConfig, ViTModel

from graft.compose.composition import compose_patches
from graft.compose.fusion.fuser import fuse_models
from graft.errors import MismatchError
from graft.localize.diff import diff_checkpoints
from graft.localize.localization import localize_skill
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.head_config import read_head
from graft.patch.live import apply_patch
from graft.patch.merge import merge_patches
from graft.patch.skill_patch import Patch
from graft.specs.fusion import FusionSpec
from graft.specs.localize import LocalizeSpec
from graft.specs.runtime import Runtime
from graft.tasks.examples import Example
from graft.tasks.head import open_head
from graft.tasks.loading import quiet_transformers
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from tests.models import (
    CHOICE,
    VERBALIZER,
    toy_content,
    toy_examples,
    write_bert,
    write_causal,
    write_choices,
    write_llama,
    write_masked,
    write_task,
)

LABELS = ["glum", "glad"]
# head: what writes its base, and the block of the TASK file
HEADS: dict[str, tuple[Any, dict[str, Any]]] = {
    "similarity": (write_bert, toy_content()["head"]),
    "classifier": (write_bert, {"kind": "classifier"}),
    "classifier of a language model": (write_llama, {"kind": "classifier"}),
    "classifier of a masked language model": (write_masked, {"kind": "classifier"}),
    "verbalizer": (write_masked, VERBALIZER),
    "causal verbalizer": (write_causal, VERBALIZER),
    "choice": (write_causal, CHOICE),
    "lm": (write_causal, {"kind": "lm"}),
}


@pytest.fixture(params=HEADS)
def trio(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Task]:
    """Make a base, a tuned model with another head on it, and the task of the head."""
    write, head = HEADS[request.param]
    base = write(tmp_path / "base", **({"steps": 1} if write in (write_masked, write_causal) else {}))
    if head["kind"] == "choice":
        path = write_choices(tmp_path / "task")
    else:
        changes = {} if head["kind"] == "lm" else {"labels": LABELS}
        path = write_task(tmp_path / "task", head=head, ood={}, **changes)
    if head["kind"] == "lm":
        content = {key: value for key, value in toy_content(head=head, ood={}).items() if key != "labels"}
        path.write_text(json.dumps(content))
    task = Task.load(path)
    return base, nudge(base, tmp_path / "tuned", task), task


def nudge(base: Path, folder: Path, task: Task) -> Path:
    """Tune a model: every weight changes, some of them much."""
    opened = open_head(base, task.spec, seed=3, runtime=Runtime(device="cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in opened.model.parameters():
            tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
    with quiet_transformers():
        opened.model.save_pretrained(folder)
        opened.tokenizer.save_pretrained(folder)
    return folder


def examples(task: Task) -> Sequence[Example]:
    return task.test_examples(6) if task.spec.choices or not task.spec.labels else toy_examples(6)


def load(folder: Path) -> Any:
    """Load the class that config.json names, with nothing missing and nothing unused."""
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    return model


def merge(base: Path, patches: Sequence[Patch], out: Path, **options: Any) -> Path:
    merge_patches(Checkpoint.open(base), patches, out, **options)
    return out


@pytest.mark.parametrize("cut_by", ["diff", "localize"])
def test_every_head_loads_and_answers_as_the_live_graft(
    cut_by: str, trio: tuple[Path, Path, Task], tmp_path: Path
) -> None:
    base, tuned, task = trio
    if cut_by == "diff":
        patch = diff_checkpoints(base, tuned)
    else:
        patch = localize_skill(base, tuned, task, LocalizeSpec("magnitude", budget=500))
    save_patch(patch, tmp_path / "patch.safetensors")
    patch = load_patch(tmp_path / "patch.safetensors")
    merged = merge(base, [patch], tmp_path / "merged")
    load(merged)
    live, other = (
        open_head(base, task.spec, seed=4, runtime=Runtime(device="cpu")),
        open_head(merged, task.spec, seed=5, runtime=Runtime(device="cpu")),
    )
    with torch.no_grad(), apply_patch(live.model, patch):
        expected = live.logits(examples(task)) if task.spec.labels or task.spec.choices else live.loss(examples(task))
    with torch.no_grad():
        outputs = other.logits(examples(task)) if task.spec.labels or task.spec.choices else other.loss(examples(task))
    assert torch.equal(outputs, expected)
    if task.spec.head.kind == "classifier":
        assert read_head(merged)["labels"] == LABELS
        assert read_head(merged)["architecture"] == read_head(tuned)["architecture"]
    else:
        assert (merged / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_a_classifier_of_images_cut_without_a_task(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(image_size=16, patch_size=8, **small)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "base")
    names = {i: f"class {i}" for i in range(7)}
    tuned = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "base", id2label=names)
    with torch.no_grad():
        next(tuned.parameters()).add_(0.1)
    tuned.save_pretrained(tmp_path / "tuned")
    merged = merge(tmp_path / "base", [diff_checkpoints(tmp_path / "base", tmp_path / "tuned")], tmp_path / "merged")
    loaded, report = transformers.AutoModelForImageClassification.from_pretrained(merged, output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"]
    assert (loaded.config.id2label, loaded.config.num_labels) == (names, 7)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(pixels).logits, tuned.eval()(pixels).logits)


@pytest.fixture
def classifiers(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Make a base and two classifiers on it, of two and three labels."""
    base = write_bert(tmp_path / "base")
    folders = []
    for labels in (["a", "b"], ["x", "y", "z"]):
        task = Task.load(write_task(tmp_path / "task", head={"kind": "classifier"}, labels=labels, ood={}))
        folders.append(nudge(base, tmp_path / labels[0], task))
    return base, folders[0], folders[1]


def test_of_several_heads_the_one_that_wins_gives_the_labels(
    classifiers: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, *tuned = classifiers
    patches = [diff_checkpoints(base, folder) for folder in tuned]
    for rule, labels in (("first", ["a", "b"]), ("last", ["x", "y", "z"])):
        merged = merge(base, patches, tmp_path / rule, on_overlap=rule)
        composed = compose_patches(*patches, on_overlap=rule, base=str(base))
        both = merged, merge(base, [composed], tmp_path / f"composed-{rule}")
        for folder in both:
            assert load(folder).classifier.out_features == len(labels)
            assert read_head(folder)["labels"] == labels


def test_other_names_of_a_head_that_the_base_has_come_with_its_entries_alone(
    classifiers: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, base, _ = classifiers
    model = BertForSequenceClassification.from_pretrained(base)
    model.config.id2label, model.config.label2id = {0: "b", 1: "a"}, {"b": 0, "a": 1}
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.5
    model.save_pretrained(tmp_path / "tuned")
    patch = diff_checkpoints(base, tmp_path / "tuned")
    assert read_head(merge(base, [patch], tmp_path / "whole"))["labels"] == ["b", "a"]
    layers = diff_checkpoints(base, tmp_path / "tuned", scope="layers")
    assert read_head(merge(base, [layers], tmp_path / "layers"))["labels"] == ["a", "b"]
    with pytest.raises(MismatchError, match="heads of other labels cannot be fused"):
        fuse_models(base, [base, tmp_path / "tuned"], tmp_path / "fused", FusionSpec("mean"))


def test_fused_classifiers_load_with_their_head(classifiers: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, first, _ = classifiers
    for name, model in (("of classifiers", first), ("of an encoder", base)):
        fusion = fuse_models(model, [first, first], tmp_path / name, FusionSpec("mean"))
        load(tmp_path / name)
        assert read_head(tmp_path / name) == read_head(model)
        assert fusion.left_out == (() if model is first else ("classifier.bias", "classifier.weight"))


def test_a_displaced_head_is_dropped_and_named_and_other_bytes_stay(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    task = Task.load(write_task(tmp_path / "task", head={"kind": "classifier"}, ood={}))
    patch, said = diff_checkpoints(base, nudge(base, tmp_path / "tuned", task)), []
    merged = merge(base, [patch], tmp_path / "merged", say=said.append)
    assert said == ["left out: lm_head.weight (a LlamaForSequenceClassification has no such weight)"]
    assert set(Checkpoint.open(merged).names) == {*Checkpoint.open(base).names, "score.weight"} - {"lm_head.weight"}
    assert isinstance(load(merged), LlamaForSequenceClassification)
    tuned = Checkpoint.open(tmp_path / "tuned")
    assert all(torch.equal(Checkpoint.open(merged).read(name), tuned.read(name)) for name in tuned.names)


@pytest.mark.parametrize(
    "head",
    [
        {"architecture": "os.system", "labels": ["a"]},
        {
            "architecture": "BertForSequenceClassification",
            "labels": {"0": "a"},
            "config": {"auto_map": "x", "hidden_size": 1},
        },
        {"architecture": "BertForSequenceClassification", "config": {"pad_token_id": [1]}},
    ],
)
def test_what_a_stranger_says_of_a_head_reaches_no_other_key(
    head: dict[str, Any], classifiers: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, tuned, _ = classifiers
    patch = diff_checkpoints(base, tuned)
    patch = dataclasses.replace(patch, provenance=dataclasses.replace(patch.provenance, task={"head": head}))
    before = json.loads((base / "config.json").read_text())
    after = json.loads((merge(base, [patch], tmp_path / "out") / "config.json").read_text())
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed <= {"architectures"}
