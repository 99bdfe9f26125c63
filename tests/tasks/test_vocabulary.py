"""A skill with new tokens, from localization to measurement: the graft on the base is the merged folder's model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from graft.errors import PatchMismatchError
from graft.evaluate.curve import measure_curve
from graft.evaluate.evaluation import evaluate_task, predict_model
from graft.localize.diff import diff_checkpoints
from graft.localize.localization import localize_skill
from graft.patch.merge import merge_patches
from graft.specs.localize import LocalizeSpec
from graft.specs.runtime import Runtime
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from tests.models import bert_tokenizer, write_base, write_task


@pytest.fixture(scope="module")
def skill(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Task]:
    """A base, a model tuned from it with two tokens more, and the task."""
    folder = tmp_path_factory.mktemp("skill")
    base, tokenizer = write_base(folder / "base", steps=10), bert_tokenizer()
    tokenizer.add_tokens(["dreadful", "splendid"])
    model = AutoModel.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder / "tuned")
    tokenizer.save_pretrained(folder / "tuned")
    file = write_task(folder / "task")
    test = folder / "task" / "test.jsonl"
    words = {" bad ": " dreadful ", " good ": " splendid "}
    text = test.read_text()
    for old, new in words.items():
        text = text.replace(old, new)
    test.write_text(text)
    return base, folder / "tuned", Task.load(file)


def test_every_changed_entry_and_the_new_rows_on_the_base_are_the_tuned_model(
    skill: tuple[Path, Path, Task], tmp_path: Path
) -> None:
    base, tuned, task = skill
    patch = diff_checkpoints(base, tuned)
    merge_patches(Checkpoint.open(base), [patch], tmp_path / "merged")
    logits = [
        predict_model(model, task, patches, runtime=Runtime(device="cpu", dtype="auto")).test.logits
        for model, patches in ((base, (patch,)), (tmp_path / "merged", ()), (tuned, ()), (base, ()))
    ]
    assert (logits[0] == logits[1]).all()
    assert (logits[0] == logits[2]).all()
    assert (logits[0] != logits[3]).any()
    with pytest.raises(PatchMismatchError, match="not the base's"):
        evaluate_task(tmp_path / "merged", task, patches=(patch,))


@pytest.mark.parametrize("scope", ["all", "layers"])
def test_localization_takes_the_rows_with_the_scope(scope: str, skill: tuple[Path, Path, Task]) -> None:
    base, tuned, task = skill
    config = LocalizeSpec("attribution", budget=200, scope=scope, points=1)
    patch = localize_skill(base, tuned, task, config)
    assert len(patch) == 200
    assert set(patch.dense) == ({"embeddings.word_embeddings.weight"} if scope == "all" else set())
    assert evaluate_task(base, task, patches=(patch,)).n == 80


def test_the_curve_measures_grafts_with_their_rows(skill: tuple[Path, Path, Task]) -> None:
    base, tuned, task = skill
    config = LocalizeSpec("magnitude", scope="all")
    curve = measure_curve(base, tuned, task, config, densities=(1e-3, 1.0))
    assert curve.points[-1].accuracy == curve.tuned


def test_without_a_tokenizer_the_rows_still_travel(skill: tuple[Path, Path, Task], tmp_path: Path) -> None:
    base, tuned, task = skill
    shutil.copytree(tuned, tmp_path / "bare", ignore=shutil.ignore_patterns("token*", "vocab*", "special*"))
    patch = diff_checkpoints(base, tmp_path / "bare")
    (growth,) = patch.provenance.grown.values()
    assert growth.tokens == ()
    assert evaluate_task(base, task, patches=(patch,)).n == 80
