"""A reference as a file: the same after a round trip, small, without texts, and refused where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from graft.errors import CheckpointError, OutputError
from graft.mixture.routing.learning import learn_reference
from graft.mixture.routing.reference import SkillReference
from graft.mixture.routing.reference_file import KEY, load_reference, save_reference
from tests.mixture.routing.planted import own_texts, plant

NEW = own_texts("bank", 50, 1000)


@pytest.fixture(scope="module")
def reference() -> SkillReference:
    return learn_reference(plant, own_texts("bank", 60), own_texts("bank", 40, 100))


@pytest.fixture
def file(reference: SkillReference, tmp_path: Path) -> Path:
    save_reference(reference, tmp_path / "bank.reference.safetensors")
    return tmp_path / "bank.reference.safetensors"


def rewrite(file: Path, change: Any) -> None:
    """Change the tensors and the JSON of a file, hashes left as they are."""
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        meta = json.loads(opened.metadata()[KEY])
    change(tensors, meta)
    save_file(tensors, file, metadata={KEY: json.dumps(meta)})


def test_a_file_gives_back_the_reference_and_its_bytes(reference: SkillReference, file: Path, tmp_path: Path) -> None:
    loaded = load_reference(file)
    assert torch.equal(loaded.score(plant(NEW)), reference.score(plant(NEW)))
    assert (loaded.threshold, loaded.accept, loaded.n_held_out) == (reference.threshold, 0.95, 40)
    save_reference(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    with pytest.raises(OutputError):
        save_reference(reference, file)
    save_reference(reference, file, force=True)


def test_no_vector_of_a_text_is_in_the_file(file: Path) -> None:
    vectors = plant(own_texts("bank", 60))
    with safe_open(file, "pt") as opened:
        stored = torch.cat([opened.get_tensor("mean")[None], opened.get_tensor("directions")])
    unit = torch.nn.functional.normalize(stored, dim=1)
    assert float((vectors @ vectors.T).max()) > 0.999  # it would be seen
    assert float((unit @ vectors.T).max()) < 0.98


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda tensors, meta: meta.update(format=2), "not a skill's reference of format 1"),
        (lambda tensors, meta: meta.update(threshold="high"), "not a skill's reference of format 1"),
        (lambda tensors, meta: meta.update(rest=0.0), "its numbers are out of range"),
        (lambda tensors, meta: meta.update(accept=1.5), "its numbers are out of range"),
        (lambda tensors, meta: meta.update(threshold=0.25), "does not match its hash"),
        (lambda tensors, meta: (meta.pop("content"), meta.pop("table")), "lacks the hashes"),
        (lambda tensors, meta: tensors.pop("probe"), "its tensors are not those of a skill's reference"),
        (lambda tensors, meta: tensors.update(mean=torch.zeros(3)), "its tensors are not those"),
        (lambda tensors, meta: tensors.update(more=torch.zeros(3)), "its tensors are not those"),
        (lambda tensors, meta: tensors["mean"].add_(1), "its bytes do not match their hash"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(file: Path, change: Any, fact: str) -> None:
    rewrite(file, lambda tensors, meta: None)
    load_reference(file)  # the rewriting itself does no harm
    rewrite(file, change)
    with pytest.raises(CheckpointError, match=fact):
        load_reference(file)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_reference(tmp_path / "junk.safetensors")
    save_file({"mean": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not a skill's reference"):
        load_reference(tmp_path / "other.safetensors")
