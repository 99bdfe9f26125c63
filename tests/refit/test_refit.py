"""A refit from folder to patch."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from tokenizers import processors

from graft.errors import BudgetError, DataError, PatchMismatchError
from graft.evaluate.kept_gain import kept_by_refit
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import patch_bytes, save_patch
from graft.patch.mask import Mask
from graft.patch.merge import merge_patches
from graft.patch.skill_patch import Patch
from graft.refit import fitting
from graft.refit import refit as refitting
from graft.refit.measured import measure
from graft.refit.refit import refit_skill
from graft.specs.refit import RefitSpec
from graft.specs.runtime import Runtime
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import same_bits, take
from graft.tensors.hashing import digest_of
from graft.tensors.pair import CheckpointPair
from graft.train.fine_tuning import train_task
from tests.checkpoints import changed_entries, changed_mask, count, cut
from tests.models import copy_with, word_tokenizer, write_base, write_bert, write_causal, write_rows, write_task

CONFIG = RefitSpec(budget=80, scope="all", lr=0.03, epochs=2, batch_size=16)


def kept_of(patch: Patch) -> float:
    kl = patch.provenance.refit["kept"]["measured"]["kl"]
    assert isinstance(kl, float)
    return kl


def start_of(patch: Patch) -> float:
    kl = patch.provenance.refit["candidates"][0]["measured"]["kl"]
    assert isinstance(kl, float)
    return kl


def refit(base: Path, tuned: Path, task: Task, **more: Any) -> Patch:
    options = {name: more.pop(name) for name in ("support", "texts", "with_base_values") if name in more}
    return refit_skill(base, tuned, task, dataclasses.replace(CONFIG, **more), **options)


def test_every_candidate_is_measured_once(base: Path, tuned: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Mock(side_effect=measure)
    monkeypatch.setattr(refitting, "measure", measured)
    monkeypatch.setattr(fitting, "measure", measured)
    patch = refit(base, tuned, task)
    assert measured.call_count == len(patch.provenance.refit["candidates"])


def test_a_refit_is_a_patch_of_exactly_k_entries_of_the_base(
    base: Path, tuned: Path, task: Task, tmp_path: Path
) -> None:
    patch = refit(base, tuned, task)
    assert len(patch) == 80
    assert patch.provenance.values == "refit"
    record = patch.provenance.refit
    assert record["teacher"] == digest_of(Checkpoint.open(tuned))
    assert (record["texts"]["source"], record["texts"]["n"]) == ("train", 160)
    assert record["kept"] in record["candidates"]
    assert patch.provenance.method["method"] == "refit"
    save_patch(patch, tmp_path / "refit.safetensors")
    again = load_patch(tmp_path / "refit.safetensors")
    assert again.provenance.refit == record
    merge_patches(Checkpoint.open(base), [again], tmp_path / "merged")
    changed = changed_entries(base, tmp_path / "merged")
    assert 70 <= count(changed) <= 80
    assert all(
        set(flags.nonzero().flatten().tolist()) <= set(patch.mask[name].tolist()) for name, flags in changed.items()
    )


def test_the_saved_values_give_the_outputs_that_were_measured(
    base: Path, tuned: Path, task: Task, tmp_path: Path
) -> None:
    patch = refit(base, tuned, task)
    merge_patches(Checkpoint.open(base), [patch], tmp_path / "merged")
    head, validation = open_head(tmp_path / "merged", task.spec), task.validation_examples()
    measured = patch.provenance.refit["kept"]["measured"]
    assert head.accuracy(validation) == measured["accuracy"]
    with torch.no_grad():
        assert head.loss(validation).item() == pytest.approx(measured["nll"], rel=1e-4)


def test_of_a_base_of_16_bits_in_fp32_the_measured_values_are_the_stored_ones(
    base: Path, tuned: Path, task: Task, tmp_path: Path
) -> None:
    folder = copy_with(base, tmp_path / "bf16", lambda *_: None, torch.bfloat16)
    config = dataclasses.replace(CONFIG, epochs=1, lr=1e-3)
    patch = refit_skill(folder, tuned, task, config, dtype="float32")
    merge_patches(Checkpoint.open(folder), [patch], tmp_path / "merged")
    head = open_head(tmp_path / "merged", task.spec, Runtime(dtype="float32"))
    kept = patch.provenance.refit["kept"]["measured"]
    with torch.no_grad():
        assert head.loss(task.validation_examples()).item() == pytest.approx(kept["nll"], rel=1e-6)


def test_the_entries_that_tuning_changed_can_reach_the_tuned_outputs(
    base: Path, tuned: Path, task: Task, tmp_path: Path
) -> None:
    pair = CheckpointPair.open(base, tuned)
    few = Mask.of(changed_mask(pair).specs, {name: ids[::97] for name, ids in changed_mask(pair).indices.items()})
    patch = cut(base, tuned)
    values = {name: take(pair.tuned.read(name), torch.tensor(few[name])) for name in few}
    sparse = dataclasses.replace(patch, mask=few, values=values, base_hashes=cut_hashes(pair, few), dense={})
    merge_patches(pair.base, [sparse], tmp_path / "sparse")
    found = refit(base, tmp_path / "sparse", task, support=few, epochs=6, lr=0.01)
    assert found.mask == few
    assert start_of(found) > 1e-3
    assert kept_of(found) < 0.1 * start_of(found)


def cut_hashes(pair: CheckpointPair, mask: Mask) -> dict[str, str]:
    from graft.tensors.hashing import hash_values

    return {name: hash_values(take(pair.base.read(name), torch.tensor(mask[name]))) for name in mask}


def test_a_random_support_of_the_same_size_does_worse(base: Path, tuned: Path, task: Task) -> None:
    by_gradient = refit(base, tuned, task)
    assert kept_of(by_gradient) < 0.5 * start_of(by_gradient)  # the positive control
    assert kept_of(refit(base, tuned, task, support=random_mask(base, 80))) > 1.5 * kept_of(by_gradient)


def random_mask(base: Path, k: int) -> Mask:
    checkpoint = Checkpoint.open(base)
    specs = {name: checkpoint.spec(name) for name in checkpoint.parameters}
    chosen = torch.randperm(sum(spec.numel for spec in specs.values()), generator=torch.Generator().manual_seed(3))[:k]
    indices, start = {}, 0
    for name, spec in specs.items():
        indices[name] = (chosen[(chosen >= start) & (chosen < start + spec.numel)] - start).numpy()
        start += spec.numel
    return Mask.of(specs, indices)


def test_the_same_seed_writes_the_same_bytes(base: Path, tuned: Path, task: Task, tmp_path: Path) -> None:
    files = []
    for number, seed in enumerate((0, 0, 1)):
        save_patch(refit(base, tuned, task, epochs=1, seed=seed), tmp_path / f"{number}.safetensors")
        files.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_of_16_bits_are_those_of_the_base_or_its_neighbors(
    dtype: torch.dtype, base: Path, tuned: Path, task: Task, tmp_path: Path
) -> None:
    folders = [copy_with(source, tmp_path / source.name, lambda *_: None, dtype) for source in (base, tuned)]
    patch = refit(*folders, task, lr=1e-3)  # steps that bf16 cannot show one by one
    assert len(patch) == 80  # also where an entry ends on the base's bits
    assert all(values.dtype == dtype for values in patch.values.values())
    checkpoint = Checkpoint.open(folders[0])
    unmoved = sum(
        int((take(checkpoint.read(name), torch.tensor(patch.mask[name])) == values).sum())
        for name, values in patch.values.items()
    )
    assert unmoved < 80
    assert kept_of(patch) < start_of(patch)


def test_a_support_of_the_base_is_taken_as_it_is(base: Path, tuned: Path, task: Task, tmp_path: Path) -> None:
    support = refit(base, tuned, task, epochs=1, budget=30, scope="embeddings")
    patch = refit(base, tuned, task, support=support, budget=None, density=1e-9, scope="layers", with_base_values=True)
    assert patch.mask == support.mask
    assert patch.provenance.scope == "all"  # the entries do not lie in the layers
    assert patch.provenance.method["support"] == "given"
    assert patch.base_values is not None
    assert all(same_bits(patch.base_values[name], values) for name, values in base_values(base, patch.mask).items())
    other = write_base(tmp_path / "other", seed=5, steps=1)
    with pytest.raises(PatchMismatchError):
        refit(other, tuned, task, support=support)
    wider = write_bert(tmp_path / "bert")
    specs = {name: dataclasses.replace(spec, shape=(*spec.shape, 2)) for name, spec in support.mask.specs.items()}
    with pytest.raises(PatchMismatchError, match="shape"):
        refit(wider, wider, task, support=Mask(specs, support.mask.indices))


def base_values(base: Path, mask: Mask) -> dict[str, torch.Tensor]:
    return {name: take(Checkpoint.open(base).read(name), torch.tensor(mask[name])) for name in mask}


def test_growth_may_leave_the_tensors_of_a_given_support(base: Path, tuned: Path, task: Task) -> None:
    bias = "encoder.layer.0.attention.output.dense.bias"
    support = Mask.of({bias: Checkpoint.open(base).spec(bias)}, {bias: range(12)})
    patch = refit(base, tuned, task, support=support, rounds=2, drop=0.5, epochs=1)
    assert len(patch) == 12
    assert refit(base, tuned, task, support=support, epochs=1).mask == support
    assert len(patch.mask - support) <= 6


def test_a_method_of_localization_chooses_the_support(base: Path, tuned: Path, task: Task) -> None:
    patch = refit_skill(base, tuned, task, dataclasses.replace(CONFIG, support="magnitude", epochs=1))
    pair = CheckpointPair.open(base, tuned)
    sizes = torch.cat([pair.read_delta(name)[0].abs().flatten() for name in pair.base.parameters])
    chosen = torch.cat([pair.read_delta(n)[0].abs().flatten()[torch.tensor(patch.mask[n])] for n in patch.mask])
    assert torch.equal(chosen.sort(descending=True).values, sizes.topk(80).values)


def test_equal_models_are_refused(base: Path, task: Task, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "same")
    with pytest.raises(BudgetError, match="there is no skill to fit"):
        refit(base, tmp_path / "same", task)


def test_a_classifiers_layer_is_copied_and_few_weights_of_the_rest_are_fitted(
    base: Path, shelf: Path, tmp_path: Path
) -> None:
    task = Task.load(write_task(tmp_path / "toy", head={"kind": "classifier"}))
    train_task(base, task, tmp_path / "tuned")
    patch = refit(base, tmp_path / "tuned", task)
    assert {name: tuple(t.shape) for name, t in patch.dense.items()} == {
        "classifier.bias": (2,),
        "classifier.weight": (2, 32),
    }
    tuned = Checkpoint.open(tmp_path / "tuned")
    assert all(same_bits(values, tuned.read(name)) for name, values in patch.dense.items())
    assert len(patch) == 80
    assert kept_of(patch) < start_of(patch)


def without_ends(folder: Path) -> Path:
    """Give a folder a tokenizer that puts nothing before or after a text, so that a word is one token."""
    tokenizer = word_tokenizer(pad_token="[PAD]", eos_token="[SEP]")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", "$A $B:1", [])
    tokenizer.save_pretrained(folder)
    return folder


def test_a_language_model_is_fitted_over_its_tokens(tmp_path: Path) -> None:
    base = without_ends(write_causal(tmp_path / "base", steps=40))
    rows = [{"text": f"{word} {word} {word} was all very sorry"} for word in ("film", "soup", "actor", "bread")] * 4
    texts = [*rows, {"text": "the"}, {"text": "film"}]  # of one token each: nothing to predict
    write_rows(tmp_path / "texts.jsonl", texts)
    content = {"head": {"kind": "lm"}, "labels": [], "ood": {}, "shots": None, "max_length": 6}
    content["data"] = dict.fromkeys(("train", "validation", "test"), str(tmp_path / "texts.jsonl"))
    task = Task.load(write_task(tmp_path / "toy", **content, train={"lr": 0.05, "epochs": 6, "batch_size": 18}))
    train_task(base, task, tmp_path / "tuned")
    patch = refit(base, tmp_path / "tuned", task, batch_size=4, lr=0.02)  # some batches of 4 could hold no token
    assert (len(patch), patch.provenance.refit["texts"]["n"]) == (80, len(rows))
    assert kept_of(patch) < 0.8 * start_of(patch)
    record = patch.provenance.refit
    assert record["tuned"]["nll"] < record["candidates"][0]["measured"]["nll"]
    told = ["accuracy" in candidate["measured"] for candidate in record["candidates"]]  # of base and kept values alone
    assert told == [candidate["epoch"] == 0 or candidate == record["kept"] for candidate in record["candidates"]]
    assert kept_by_refit(patch) is not None
    names = {name for group in patch.provenance.tied for name in group}
    assert len(names & set(patch.mask)) <= 1  # tied embeddings have one name
    mixed = refit(base, tmp_path / "tuned", task, batch_size=1, epochs=1, labels=0.5)
    assert len(mixed) == 80


def test_texts_without_any_token_to_predict_are_refused(tmp_path: Path) -> None:
    base = without_ends(write_causal(tmp_path / "base", steps=1))
    write_rows(tmp_path / "texts.jsonl", [{"text": "the"}])
    content = {"head": {"kind": "lm"}, "labels": [], "ood": {}, "shots": None}
    content["data"] = dict.fromkeys(("train", "validation", "test"), str(tmp_path / "texts.jsonl"))
    with pytest.raises(DataError, match="no text has two tokens"):
        refit(base, base, Task.load(write_task(tmp_path / "toy", **content)))


def test_a_live_teacher_gives_the_patch_of_its_folder_and_stays_as_it_is(base: Path, tuned: Path, task: Task) -> None:
    from transformers import AutoModel, AutoTokenizer

    live, tokenizer = AutoModel.from_pretrained(tuned), AutoTokenizer.from_pretrained(tuned)
    before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    config = RefitSpec(budget=60, scope="all", epochs=1)
    of_live = refit_skill(base, live, task, config, tokenizer=tokenizer)
    assert patch_bytes(of_live) == patch_bytes(refit_skill(base, tuned, task, config))
    assert all(same_bits(before[name], tensor) for name, tensor in live.state_dict().items())


def test_a_refit_of_whole_columns_is_named_by_them(base: Path, tuned: Path, task: Task) -> None:
    config = RefitSpec(structure="columns", lines=4, epochs=1)
    patch = refit_skill(base, tuned, task, config)
    assert patch.provenance.method["lines"] == 4
    assert patch.provenance.has_lines
    again = refit_skill(base, tuned, task, RefitSpec(epochs=1), support=patch)
    assert again.mask == patch.mask
    assert again.provenance.method["structure"] == "columns"
    assert not refit_skill(base, tuned, task, RefitSpec(epochs=1), support=patch.mask).provenance.has_lines
