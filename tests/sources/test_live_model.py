"""A live model as a checkpoint: what `save_pretrained` would write, and nothing of the model changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import CheckpointError
from graft.sources.opening import open_model
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import digest_of
from tests.architectures import KINDS, Kind
from tests.checkpoints import bits_of, model_of, sample_tensors, save_model, small_bert, small_classifier, small_llama

MODELS = {
    "encoder": small_bert,
    "classifier": small_classifier,
    "tied": lambda: small_llama(tied=True),
    "bf16": lambda: small_llama(tied=False, dtype=torch.bfloat16),
}


def state_of(model: Any) -> list[Any]:
    """What a user would see of a model: bits, flags, modes."""
    flags = [(name, tensor.requires_grad, tensor.device) for name, tensor in model.named_parameters()]
    return [bits_of(model), flags, [module.training for module in model.modules()], model.config.to_dict()]


@pytest.mark.parametrize("kind", MODELS)
def test_its_digest_is_that_of_its_folder(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]().train()
    live = open_model(model).checkpoint
    digest, names = digest_of(live), live.names
    folder = Checkpoint.open(save_model(model, tmp_path / "saved"))
    assert names == folder.names
    assert digest == digest_of(folder)
    assert live.parameters == folder.parameters
    assert live.tied == folder.tied
    assert live.dtype == folder.dtype
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert digest_of(open_model(model).checkpoint) != digest


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_digest_of_every_architecture(kind: Kind, tmp_path: Path) -> None:
    model = kind.build(0)
    live = open_model(model).checkpoint
    folder = Checkpoint.open(save_model(model, tmp_path / "saved"))
    assert live.names == folder.names
    assert digest_of(live) == digest_of(folder)
    again = type(model).from_pretrained(tmp_path / "saved")
    assert digest_of(open_model(again).checkpoint) == digest_of(folder)


def test_nothing_of_the_model_changes() -> None:
    model = small_classifier().train()
    model.bert.embeddings.requires_grad_(False)
    before = state_of(model)
    live = open_model(model).checkpoint
    for name in live.names:
        live.read(name).fill_(0)
    assert state_of(model) == before


def test_wrappers_are_looked_through() -> None:
    model = small_bert()
    digest = digest_of(open_model(model).checkpoint)
    assert digest_of(open_model(torch.nn.DataParallel(model)).checkpoint) == digest
    assert digest_of(open_model(torch.compile(model)).checkpoint) == digest


def test_a_module_of_any_kind_has_the_names_of_its_state() -> None:
    tensors = sample_tensors()
    live = open_model(model_of(tensors)).checkpoint
    assert live.names == tuple(sorted(tensors))
    assert live.architecture is None


def test_its_folder_goes_with_it() -> None:
    live = open_model(small_bert()).checkpoint
    path = live.path
    assert (path / "config.json").is_file()
    del live
    assert not path.exists()


def test_what_has_no_plain_values_is_refused() -> None:
    with torch.device("meta"):
        model = small_bert()
    with pytest.raises(CheckpointError, match="meta device"):
        open_model(model)
    integers = model_of({"w": torch.zeros(2)})
    integers.register_buffer("odd", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(CheckpointError, match="no plain values"):
        open_model(integers)
