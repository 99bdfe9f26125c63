from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from graft.errors import CheckpointError, MismatchError
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import to_bytes
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from tests.checkpoints import (
    Tensors,
    bits_of,
    cut,
    nudged,
    sample_tensors,
    save_model,
    small_bert,
    small_classifier,
    small_llama,
    write_sharded,
    write_single,
)


def pair_of(folder: Path, base: Tensors, tuned: Tensors) -> CheckpointPair:
    return CheckpointPair.open(write_single(folder / "base", base), write_sharded(folder / "tuned", tuned))


def test_two_layouts_of_one_architecture_match(tmp_path: Path) -> None:
    base, tuned = sample_tensors(0), sample_tensors(1)
    pair = pair_of(tmp_path, base, tuned)
    assert list(pair.names) == sorted(base)
    assert (pair.extra, pair.absent) == ((), ())
    for name in pair.names:
        left, right = pair.read(name)
        delta, changed = pair.read_delta(name)
        assert bits_of({"base": left, "tuned": right}) == bits_of({"base": base[name], "tuned": tuned[name]})
        assert torch.equal(delta, (tuned[name] - base[name]).flatten())
        assert changed.all()


def test_the_tuned_values_are_rounded_to_nearest_even_in_the_dtype_of_the_base(tmp_path: Path) -> None:
    base = {"layers.0.w": torch.tensor([1.0, 1.0, -0.0, 2.0], dtype=torch.bfloat16)}
    tuned = {"layers.0.w": torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 0.0, 2.0 + 1e-6])}
    pair = pair_of(tmp_path, base, tuned)
    assert pair.read("layers.0.w")[1].tolist() == [1.0, 1 + 2**-6, 0.0, 2.0]
    delta, changed = pair.read_delta("layers.0.w")
    assert delta.dtype == torch.float32
    assert changed.tolist() == [False, True, True, False]  # 0.0 differs from -0.0 in its bits


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e39])  # the last overflows the base's fp32
@pytest.mark.parametrize("spoilt", ["base", "tuned"])
def test_what_is_not_finite_is_refused_by_name(bad: float, spoilt: str, tmp_path: Path) -> None:
    tensors = {"base": sample_tensors(), "tuned": sample_tensors()}
    tensors[spoilt]["layers.1.b"] = torch.tensor([0, 0, bad, 0, 0], dtype=torch.float64)
    if spoilt == "base":
        tensors["base"]["layers.1.b"] = tensors["base"]["layers.1.b"].float()
    pair = pair_of(tmp_path, tensors["base"], tensors["tuned"])
    pair.read("layers.1.w")
    with pytest.raises(CheckpointError, match=rf"{spoilt}: tensor 'layers\.1\.b' holds NaN or infinite"):
        pair.read("layers.1.b")


def test_other_shapes_and_kinds_are_refused_by_name_where_they_are_in_scope(tmp_path: Path) -> None:
    base = sample_tensors()
    shape = pair_of(tmp_path / "shape", base, base | {"layers.0.w": torch.zeros(5, 6)})
    kind = pair_of(tmp_path / "kind", base, base | {"embed.weight": torch.zeros(7, 4, dtype=torch.int32)})
    with pytest.raises(MismatchError, match=r"'layers\.0\.w' has shape \[6, 5\] in the base, \[5, 6\].*architecture"):
        shape.names_in(Scope("layers"))
    with pytest.raises(MismatchError, match=r"'embed\.weight' is F32 in the base and I32 .*--scope layers"):
        kind.names_in(Scope("all"))
    assert shape.names_in(Scope("embeddings")) == ("embed.weight",)
    assert kind.names_in(Scope("layers")) == ("layers.0.w", "layers.1.b", "layers.1.w")


def test_what_a_buffer_shares_may_be_infinite_but_not_what_changed(tmp_path: Path) -> None:
    base = {"layers.0.w": torch.ones(2), "layers.0.inv_freq": torch.tensor([-torch.inf, 1.0])}
    same = pair_of(tmp_path / "same", base, base | {"layers.0.inv_freq": torch.tensor([-torch.inf, 2.0])})
    assert same.changed("layers.0.inv_freq").tolist() == [1]
    other = pair_of(tmp_path / "other", base, base | {"layers.0.inv_freq": torch.tensor([-torch.inf, torch.inf])})
    with pytest.raises(CheckpointError, match=r"'layers\.0\.inv_freq' holds NaN or infinite"):
        other.changed("layers.0.inv_freq")


def test_a_layer_must_not_be_missing_but_a_head_may(tmp_path: Path) -> None:
    base = sample_tensors()
    pair = pair_of(tmp_path / "head", base, {name: base[name] for name in base if name != "head.w"})
    assert pair.absent == ("head.w",)
    with pytest.raises(
        MismatchError, match=r"tuned is of another architecture than base: it lacks tensor 'layers\.1\.b'"
    ):
        pair_of(tmp_path / "layer", base, {name: base[name] for name in base if name != "layers.1.b"})
    with pytest.raises(MismatchError, match="every tensor of the base"):
        pair_of(tmp_path / "all", {"a.w": torch.zeros(2)}, {"b.w": torch.zeros(2), "c.w": torch.zeros(2)})


def test_a_head_that_only_the_tuned_has_is_taken_whole(tmp_path: Path) -> None:
    encoder = small_bert()
    base = save_model(encoder, tmp_path / "base")
    tuned_model = nudged(small_classifier(encoder))
    tuned = save_model(tuned_model, tmp_path / "tuned")
    pair = CheckpointPair.open(base, tuned)
    assert pair.names["encoder.layer.0.output.dense.weight"] == "bert.encoder.layer.0.output.dense.weight"
    assert pair.extra == ("classifier.bias", "classifier.weight")
    patch = cut(base, tuned)
    assert to_bytes(patch.dense["classifier.weight"]) == to_bytes(tuned_model.classifier.weight)
    assert all(not name.startswith("bert.") for name in patch.mask)
    back = CheckpointPair.open(tuned, base)  # from the classifier to the encoder: the head is dropped
    assert back.absent == ("classifier.bias", "classifier.weight")
    assert back.names["bert.encoder.layer.0.output.dense.weight"] == "encoder.layer.0.output.dense.weight"


def test_a_head_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    tuned = small_classifier(small_bert())
    with torch.no_grad():
        tuned.bert.pooler.dense.bias += 1
        tuned.classifier.bias[1] = float("inf")
    with pytest.raises(CheckpointError, match=r"'classifier\.bias' holds NaN or infinite"):
        cut(save_model(small_bert(), tmp_path / "base"), save_model(tuned, tmp_path / "tuned"))


def test_tied_in_the_base_and_untied_in_the_tuned_is_refused_by_name(tmp_path: Path) -> None:
    base = save_model(small_llama(tied=True), tmp_path / "base")
    untied = small_llama(tied=False)
    with pytest.raises(MismatchError, match=r"ties 'model\.embed_tokens\.weight' with 'lm_head\.weight'.* unties"):
        CheckpointPair.open(base, save_model(untied, tmp_path / "untied"))
    untied.lm_head.weight.data = untied.model.embed_tokens.weight.detach().clone()  # listed twice, but equal
    pair = CheckpointPair.open(base, save_model(untied, tmp_path / "equal"))
    assert "lm_head.weight" not in pair.names
    assert pair.extra == ()


def test_names_listed_once_in_one_and_twice_in_the_other_match(tmp_path: Path) -> None:
    model = small_llama(tied=True)
    once = save_model(model, tmp_path / "once")
    listed = {name: Checkpoint.open(once).read(name) for name in Checkpoint.open(once).names}
    listed["lm_head.weight"] = model.lm_head.weight.detach().clone()
    config = json.loads((once / "config.json").read_text())
    twice = write_single(tmp_path / "twice", listed, config)
    for base, tuned in ((once, twice), (twice, once)):
        pair = CheckpointPair.open(base, tuned)
        assert len(pair.names) == len(Checkpoint.open(once).names)
        assert (pair.extra, pair.absent) == ((), ())


def test_what_the_base_lists_apart_is_found_where_the_tuned_ties_it(tmp_path: Path) -> None:
    base = save_model(small_llama(tied=False), tmp_path / "base")
    tuned_model = nudged(small_llama(tied=True))
    pair = CheckpointPair.open(base, save_model(tuned_model, tmp_path / "tuned"))
    assert pair.names["lm_head.weight"] == "model.embed_tokens.weight"
    assert pair.absent == ()
    assert to_bytes(pair.read("lm_head.weight")[1]) == to_bytes(tuned_model.lm_head.weight)
