"""Heads that skills bring: each row's logits are those of its own classifier, the backbone run once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import graft
from graft.errors import ConfigError, PatchMismatchError
from graft.patch.skill_patch import Patch
from tests.checkpoints import nudged, save_model, small_bert, small_classifier

IDS = torch.randint(4, 16, (5, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]] * 2 + [[1] * 6])


def tuned(folder: Path, seed: int, n_labels: int) -> tuple[Patch, torch.nn.Module]:
    """A classifier tuned from the base, and its patch."""
    torch.manual_seed(seed)
    model = small_classifier(nudged(small_bert(), seed=seed), n_labels).eval()
    path = save_model(model, folder / f"tuned-{seed}")
    return graft.diff_checkpoints(folder / "base", path), model


@torch.no_grad()
def test_each_row_has_its_own_head(tmp_path: Path) -> None:
    save_model(small_bert(), tmp_path / "base")
    (three, first), (two, second) = tuned(tmp_path, 1, 3), tuned(tmp_path, 2, 2)
    model, runs = small_bert().eval(), []
    batch = {"input_ids": IDS, "attention_mask": MASK}
    model.encoder.register_forward_hook(lambda *_: runs.append(1))
    with graft.serve_patches(model, {"three": three, "two": two}) as mixed:
        rows = ["three", "two", "two", "three", "two"]
        with mixed.skills(rows):
            mixed.head_logits(**batch)  # the first batch proves that rows are kept apart
            runs.clear()
            found = mixed.head_logits(**batch)
        for row, (name, logits) in enumerate(zip(rows, found, strict=True)):
            expected = {"three": first, "two": second}[name](**batch).logits[row]
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
        assert runs == [1]
        with pytest.raises(ConfigError, match="brings no head"), mixed.skills(["three", None]):
            mixed.head_logits(input_ids=IDS[:2])
        mixed.remove("two")
        mixed.add("two", two)
        with mixed.skills(["two"]):
            assert len(mixed.head_logits(input_ids=IDS[:1])[0]) == 2


def test_a_head_that_is_not_the_model_s_is_refused(tmp_path: Path) -> None:
    save_model(small_bert(), tmp_path / "base")
    patch, _ = tuned(tmp_path, 1, 3)
    task = patch.provenance.task or {}
    for architecture in ("Trainer", "RobertaForSequenceClassification", "os.system", ""):
        head = {**task["head"], "architecture": architecture}
        other = dataclasses.replace(patch.provenance, task={**task, "head": head})
        with pytest.raises(PatchMismatchError, match="no sequence classifier of a bert"):
            graft.serve_patches(small_bert(), {"a": dataclasses.replace(patch, provenance=other)})
    torn = dataclasses.replace(patch, dense=dict(list(patch.dense.items())[:1]))
    with pytest.raises(PatchMismatchError, match="not that of BertForSequenceClassification"):
        graft.serve_patches(small_bert(), {"a": torn})
