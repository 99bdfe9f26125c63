"""Every way from a patch to a model makes the same checks: each refuses whatever does not belong to the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from graft_cli import main
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from graft.compose.composition import compose_patches
from graft.compose.exclusion import exclude_patches
from graft.errors import GraftError
from graft.evaluate.necessity import cut_removal
from graft.explain.explainer import explain_patch
from graft.hub.verification import verify_patch
from graft.interop.exporting import export_patch
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.live import apply_patch, prepare_patch
from graft.patch.mask import Mask
from graft.patch.merge import merge_patches
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import hash_values
from graft.train.protection.guard import protect
from tests.checkpoints import cut, nudged, save_model, small_llama

EMBEDDING, UP = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"


def of_other_values(folder: Path) -> Path:
    return save_model(small_llama(tied=True, seed=7), folder)


def transposed(folder: Path) -> Path:
    """Write below the model class, with the same names and numbers of elements."""
    save_model(small_llama(tied=True), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[UP] = tensors[UP].T.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").unlink()  # which would refuse it before any door
    return folder


def in_another_dtype(folder: Path) -> Path:
    return save_model(small_llama(tied=True).bfloat16(), folder)


def smaller(folder: Path) -> Path:
    model = small_llama(tied=True)
    del model.model.layers[1]
    model.config.num_hidden_layers = 1
    return save_model(model, folder)


def untied(folder: Path) -> Path:
    """Return the same numbers under each name, in tensors of their own."""
    model = small_llama(tied=False)
    model.load_state_dict(small_llama(tied=True).state_dict())
    return save_model(model, folder)


def live(model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(model, dtype=load_file(model / "model.safetensors")[EMBEDDING].dtype)


def protected(patch: Path, model: Path, out: Path) -> None:
    module = live(model)
    protect(module, torch.optim.SGD(module.parameters(), 0.1), load_patch(patch)).release()


def verified(patch: Path, model: Path, out: Path) -> None:
    if reasons := verify_patch(str(patch), str(model)).reasons:
        raise GraftError(reasons[0])


def a_part_of(patch: Path) -> Patch:
    """Return one entry of each tensor, so that the base is asked for the others."""
    whole = load_patch(patch)
    assert whole.base_values is not None
    mask = Mask.of(whole.mask.specs, {name: indices[:1] for name, indices in whole.mask.indices.items()})
    values, before = ({name: held[name][:1] for name in mask} for held in (whole.values, whole.base_values))
    prints = {name: hash_values(tensor) for name, tensor in before.items()}
    return Patch(mask, values, prints, whole.provenance, before)


Door = Callable[[Path, Path, Path], object]  # of the patch's file, the model, an output
DOORS: dict[str, Door] = {
    "apply, live": lambda patch, model, out: apply_patch(live(model), load_patch(patch)),
    "fit": lambda patch, model, out: prepare_patch(live(model), load_patch(patch)),
    "apply, on disk": lambda patch, model, out: merge_patches(Checkpoint.open(model), [load_patch(patch)], out),
    "verify": verified,
    "explain": lambda patch, model, out: explain_patch(patch, str(model)),
    "exclude from a model": lambda patch, model, out: cut_removal(model, model, load_patch(patch)),
    "exclude": lambda patch, model, out: exclude_patches(patch, a_part_of(patch), base=model),
    "compose": lambda patch, model, out: compose_patches(patch, a_part_of(patch), base=model),
    "export": lambda patch, model, out: export_patch(load_patch(patch), "state-dict", out, base=str(model)),
    "protect": protected,
}
MODELS = (of_other_values, transposed, in_another_dtype, smaller, untied)
LENIENT = {  # why another model is none there
    ("protect", "in_another_dtype"),  # values are compared, whatever they are held in
    ("exclude", "untied"),  # what comes out belongs to the patch's own base still
    ("compose", "untied"),
    ("apply, live", "transposed"),  # no such model can be loaded
    ("fit", "transposed"),
    ("protect", "transposed"),
}


@pytest.fixture(scope="module")
def skill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skill")
    model = small_llama(tied=True)
    base, tuned = save_model(model, folder / "base"), save_model(nudged(model), folder / "tuned")
    patch = cut(base, tuned, with_base_values=True)
    assert {EMBEDDING, UP} <= set(patch.mask)
    save_patch(patch, folder / "p.safetensors")
    return folder


@pytest.mark.parametrize("door", DOORS)
def test_each_door_lets_in_what_belongs(door: str, skill: Path, tmp_path: Path) -> None:
    DOORS[door](skill / "p.safetensors", skill / "base", tmp_path / "out")


@pytest.mark.parametrize(
    ("door", "make"),
    [(door, make) for door in DOORS for make in MODELS if (door, make.__name__) not in LENIENT],
    ids=lambda item: getattr(item, "__name__", item),
)
def test_each_door_refuses_another_model(door: str, make: Callable[[Path], Path], skill: Path, tmp_path: Path) -> None:
    model = make(tmp_path / "other")
    with pytest.raises(GraftError, match=r"tensor '"):
        DOORS[door](skill / "p.safetensors", model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [of_other_values, transposed, untied], ids=lambda make: make.__name__)
def test_exclude_from_a_model_refuses_a_foreign_patch_and_writes_nothing(
    make: Callable[[Path], Path], skill: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--without", str(skill / "p.safetensors"), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as good:
        main(["exclude", str(skill / "tuned"), "--base", str(skill / "base"), *asked])
    assert not good.value.code
    other = make(tmp_path / "other")
    with pytest.raises(SystemExit) as bad:
        main(["exclude", str(other), "--base", str(other), *asked[:-1], str(tmp_path / "more")])
    assert bad.value.code == 1
    assert "does not fit other: tensor '" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


def test_a_mismatch_that_is_allowed_is_one_of_values_alone(skill: Path, tmp_path: Path) -> None:
    patch = load_patch(skill / "p.safetensors")
    assert merge_patches(
        Checkpoint.open(of_other_values(tmp_path / "a")), [patch], tmp_path / "out", allow_mismatch=True
    )
    for make in (transposed, in_another_dtype, smaller, untied):
        with pytest.raises(GraftError, match=r"tensor '"):
            merge_patches(Checkpoint.open(make(tmp_path / make.__name__)), [patch], tmp_path / "x", allow_mismatch=True)
