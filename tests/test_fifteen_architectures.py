"""Fifteen architectures, their files laid out the old way and the new: diff, apply, live, protection, localize."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import graft
from graft.patch.merge import merge_patches
from graft.specs.localize import LocalizeSpec
from graft.specs.reader import read_config
from graft.specs.task import TaskSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import same_bits
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from tests.architectures import KINDS, VOCABULARY, Kind
from tests.models import WORDS, word_tokenizer

State = dict[str, torch.Tensor]


def reload(kind: Kind, folder: Path) -> Any:
    return getattr(transformers, kind.name).from_pretrained(folder, dtype="auto").eval()


def state_of(model: torch.nn.Module) -> State:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def differing(left: State, right: State) -> list[str]:
    return [name for name, tensor in left.items() if not same_bits(tensor, right[name])]


def tuned_from(model: Any) -> Any:
    """Change a few entries of every matrix, those of the first and the last rows among them."""
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.ndim > 1):
            flat = parameter.view(-1)
            flat[[number % 3, -1 - number % 3]] += 0.5
    return model


@pytest.fixture(params=["new", "once"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def base(kind: Kind, layout: str, tmp_path: Path) -> Path:
    kind.build(0).save_pretrained(tmp_path / "base")
    word_tokenizer(pad_token="[PAD]", model_input_names=["input_ids", "attention_mask"]).save_pretrained(
        tmp_path / "base"
    )
    if layout == "once":
        kind.rewrite(tmp_path / "base")
    return tmp_path / "base"


def task_in(folder: Path, head: str) -> Task:
    rows = [{"text": " ".join(WORDS[4 + (i + j) % 20] for j in range(6)), "label": i % 2} for i in range(16)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    block = {"kind": "lm"} if head == "lm" else {"kind": head, "texts": ["bad sorry", "good happy"]}
    spec: dict[str, Any] = {"name": "toy", "data": dict.fromkeys(("train", "validation", "test"), "rows.jsonl"),
                            "head": block, "max_length": 16,
                            "train": {"optimizer": "adamw", "lr": 1e-3, "steps": 2, "batch_size": 8}}  # fmt: skip
    return Task(read_config(TaskSpec, spec if head == "lm" else spec | {"labels": ["sad", "glad"]}, "task"), folder)


def test_a_skill_goes_through_every_architecture(kind: Kind, layout: str, base: Path, tmp_path: Path) -> None:
    model = reload(kind, base)
    before = state_of(model)
    checkpoint = Checkpoint.open(base)
    assert checkpoint.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    in_layers = sum(checkpoint.spec(name).numel for name in Scope("layers").names(checkpoint))
    assert in_layers > 0.3 * checkpoint.n_parameters
    tuned_from(reload(kind, base)).save_pretrained(tmp_path / "tuned")
    after = state_of(reload(kind, tmp_path / "tuned"))
    assert differing(before, after), "the control: tuning moved something"

    patch = graft.diff_checkpoints(base, tmp_path / "tuned")
    merge_patches(checkpoint, [patch], tmp_path / "merged")
    assert differing(after, state_of(reload(kind, tmp_path / "merged"))) == []

    with graft.apply_patch(model, patch):
        assert differing(after, state_of(model)) == []
    assert differing(before, state_of(model)) == []

    take_two_steps(kind, model, patch)
    assert differing(before, state_of(model)), "the control: training moved others"
    model.save_pretrained(tmp_path / "trained")
    pair = CheckpointPair.open(checkpoint, tmp_path / "trained")
    for name in patch.mask:
        assert same_bits(*pair.read_at(name, torch.tensor(patch.mask[name]))), name


def take_two_steps(kind: Kind, model: Any, patch: graft.Patch) -> None:
    """Train two steps of AdamW with the patch's region protected."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, VOCABULARY, (2, 8), generator=generator)
    with graft.protect(model, optimizer, [patch.mask]):
        for _ in range(2):
            if kind.head is None:
                output = model(pixel_values=torch.rand(2, 3, 8, 8, generator=generator)).logits
            elif "Conditional" in kind.name:
                output = model(input_ids=ids, decoder_input_ids=ids).logits
            else:
                output = model(input_ids=ids)[0]
            output.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.head], ids=lambda kind: kind.name, indirect=True)
def test_localize_finds_what_moved(kind: Kind, layout: str, base: Path, tmp_path: Path) -> None:
    tuned_from(reload(kind, base)).save_pretrained(tmp_path / "tuned")
    config = LocalizeSpec(method="taylor", budget=5, scope="layers")
    assert kind.head is not None
    patch = graft.localize_skill(base, tmp_path / "tuned", task_in(tmp_path, kind.head), config)
    assert len(patch) == 5
    if kind.name == "MixtralForCausalLM":
        assert any("experts" in name for name in graft.diff_checkpoints(base, tmp_path / "tuned").mask)
