"""A vocabulary that grew and a head of other outputs: onto disk, onto a live model, through a file, beside another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
)

from graft.errors import OverlapError, PatchError, PatchFormatError, PatchMismatchError
from graft.localize.diff import diff_checkpoints
from graft.memory.apply import plan_merge
from graft.patch.compatibility import check_compatible
from graft.patch.format.reading import load_patch, load_region
from graft.patch.format.writing import patch_bytes, save_patch
from graft.patch.live import apply_patch
from graft.patch.mask import Mask
from graft.patch.merge import StoredTarget, merge_patches
from graft.patch.provenance import Provenance
from graft.patch.resizing import describe_vocabulary
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.growth import Growth
from tests.checkpoints import (
    bits_of,
    equal_patches,
    join_file,
    make_patch,
    nudged,
    sample_tensors,
    save_model,
    small_classifier,
    small_llama,
    split_file,
    write_single,
)
from tests.models import SIZES, WORDS, word_tokenizer

N = len(WORDS)
MODELS: dict[str, Any] = {
    "tied": lambda: small_llama(tied=True),
    "untied": lambda: small_llama(tied=False),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=N, n_embd=8, n_layer=2, n_head=2, n_positions=16)),
    "with a bias": lambda: BertForMaskedLM(BertConfig(vocab_size=N, max_position_embeddings=16, **SIZES)),
}


def grow(model: PreTrainedModel, to: int) -> Any:
    """Return a nudged copy with more rows."""
    tuned = nudged(model)
    tuned.resize_token_embeddings(to, mean_resizing=False)
    return tuned


def pair_on_disk(folder: Path, base: PreTrainedModel, tokens: list[str], multiple: int = 1) -> tuple[Path, Path]:
    """Write base and tuned folders with tokenizers; the tuned model has the tokens' rows and padding to a multiple."""
    base.resize_token_embeddings(N, mean_resizing=False)
    tokenizer = word_tokenizer(pad_token="[PAD]")
    save_model(base, folder / "base")
    tokenizer.save_pretrained(folder / "base")
    tokenizer.add_tokens(tokens)
    save_model(grow(base, -(-len(tokenizer) // multiple) * multiple), folder / "tuned")
    tokenizer.save_pretrained(folder / "tuned")
    return folder / "base", folder / "tuned"


@pytest.mark.parametrize("multiple", [1, 16])
@pytest.mark.parametrize("kind", MODELS)
def test_the_merged_folder_is_the_tuned_model_and_reads_its_tokens(kind: str, multiple: int, tmp_path: Path) -> None:
    model = MODELS[kind]()
    base, tuned = pair_on_disk(tmp_path, model, ["<a>", "<b>"], multiple)
    cut = diff_checkpoints(base, tuned)
    save_patch(cut, tmp_path / "patch")
    patch = load_patch(tmp_path / "patch")
    assert equal_patches(patch, cut)
    assert patch.provenance.grown
    assert all(growth.start == N and growth.tokens[:2] == ("<a>", "<b>") for growth in patch.provenance.grown.values())
    assert plan_merge(Checkpoint.open(base), [tmp_path / "patch"], tmp_path / "out").parts
    merge_patches(Checkpoint.open(base), [patch], tmp_path / "out")
    merged, report = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    assert bits_of(merged) == bits_of(type(model).from_pretrained(tuned))
    assert AutoConfig.from_pretrained(tmp_path / "out").vocab_size == AutoConfig.from_pretrained(tuned).vocab_size
    asked = "good <b> film <a>"
    ids = [AutoTokenizer.from_pretrained(folder)(asked)["input_ids"] for folder in (tmp_path / "out", tuned, base)]
    assert ids[0] == ids[1] != ids[2]
    assert "has the 2 new tokens" in describe_vocabulary(tmp_path / "out", [patch])[0]
    assert check_compatible(patch, StoredTarget(Checkpoint.open(tmp_path / "out"))).reasons  # it is on already


def test_a_live_model_has_to_be_resized_first_and_gets_its_rows_back(tmp_path: Path) -> None:
    base, tuned = pair_on_disk(tmp_path, small_llama(tied=False), ["<a>"])
    patch = diff_checkpoints(base, tuned)
    live, goal = (LlamaForCausalLM.from_pretrained(folder) for folder in (base, tuned))
    with pytest.raises(PatchMismatchError, match=rf"a vocabulary of {N + 1} rows, the model has {N}: call .*\({N + 1}"):
        apply_patch(live, patch)
    live.resize_token_embeddings(N + 1, mean_resizing=False)
    before = bits_of(live)
    with apply_patch(live, patch) as grafted:
        assert bits_of(live) == bits_of(goal) != before
        assert grafted.k == len(patch)
    assert bits_of(live) == before
    live.resize_token_embeddings(N + 2, mean_resizing=False)
    with pytest.raises(PatchMismatchError, match=rf"the model has {N + 2}"):
        apply_patch(live, patch)


def test_shards_are_written_anew_only_where_a_tensor_grew(tmp_path: Path) -> None:
    model = small_llama(tied=False)
    model.resize_token_embeddings(N, mean_resizing=False)
    base = save_model(model, tmp_path / "base", max_shard_size="2KB")
    patch = diff_checkpoints(base, save_model(grow(model, N + 3), tmp_path / "tuned"))
    merge_patches(Checkpoint.open(base), [patch], tmp_path / "out")
    shards = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(shards) > 2
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == shards
    out = Checkpoint.open(tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(map(out.n_bytes, out.names))
    goal = LlamaForCausalLM.from_pretrained(tmp_path / "tuned").state_dict()
    assert bits_of({name: out.read(name) for name in out.names}) == bits_of(dict(goal))
    assert "copy the tuned model's tokenizer" in describe_vocabulary(tmp_path / "out", [patch])[0]


def test_within_the_layers_a_grown_vocabulary_stays_out(tmp_path: Path) -> None:
    base, tuned = pair_on_disk(tmp_path, small_llama(tied=False), ["<a>"])
    assert diff_checkpoints(base, tuned, scope="heads").dense.keys() == {"lm_head.weight", "model.embed_tokens.weight"}
    patch = diff_checkpoints(base, tuned, scope="layers", budget=5)
    assert (len(patch), patch.dense, patch.provenance.grown) == (5, {}, {})
    with apply_patch(LlamaForCausalLM.from_pretrained(base), patch) as grafted:
        assert grafted.k == 5


@pytest.mark.parametrize("n_labels", [1, 5])
def test_a_head_of_other_outputs_is_replaced_whole(n_labels: int, tmp_path: Path) -> None:
    encoder = small_classifier().bert
    base = save_model(small_classifier(encoder, 3), tmp_path / "base")
    tuned = save_model(small_classifier(nudged(encoder), n_labels), tmp_path / "tuned")
    names = {"classifier.weight", "classifier.bias"}
    for patch in (diff_checkpoints(base, tuned, budget=9, scope="layers"), diff_checkpoints(base, tuned)):
        assert patch.dense.keys() == names
        assert not names & set(patch.mask)
    merge_patches(Checkpoint.open(base), [patch], tmp_path / "out")
    goal, out = Checkpoint.open(tuned), Checkpoint.open(tmp_path / "out")
    assert bits_of({n: out.read(n) for n in out.names}) == bits_of({n: goal.read(n) for n in goal.names})
    merged, report = BertForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    assert merged.config.num_labels == n_labels
    live = BertForSequenceClassification.from_pretrained(base)
    with pytest.raises(PatchMismatchError, match=r"classifier.*cannot be replaced whole.*the task's head"):
        apply_patch(live, patch)
    head = BertForSequenceClassification.from_pretrained(base, num_labels=n_labels, ignore_mismatched_sizes=True)
    before = bits_of(head)
    with apply_patch(head, patch):
        assert bits_of(head) == bits_of(BertForSequenceClassification.from_pretrained(tuned))
    assert bits_of(head) == before


def test_nothing_but_a_head_takes_another_size_without_being_told_grown(tmp_path: Path) -> None:
    tensors = sample_tensors() | {"lm_head.weight": torch.ones(7, 4)}
    checkpoint = Checkpoint.open(write_single(tmp_path / "base", tensors))
    for name, shape in (
        ("embed.weight", (1, 4)),
        ("lm_head.weight", (1, 4)),
        ("layers.0.w", (7, 5)),
        ("head.w", (2, 6)),
    ):
        patch = make_patch(tensors, {"layers.1.w": {0: 9.0}}, dense={name: torch.ones(shape)})
        fit = check_compatible(patch, StoredTarget(checkpoint))
        assert len(fit.reasons) == 1
        assert "cannot be replaced whole by" in fit.reasons[0]
    patch = make_patch(tensors, {"layers.1.w": {0: 9.0}}, dense={"head.w": torch.ones(3, 5)})
    assert check_compatible(patch, StoredTarget(checkpoint)).fits


BASE = {"embed.weight": torch.zeros(7, 4), "layers.0.w": torch.zeros(2, 2)}


def grown_patch(tokens: tuple[str | None, ...] = ("<a>", "<b>"), value: float = 1.0, start: int = 7) -> Patch:
    provenance = Provenance(grown={"embed.weight": Growth(start, tokens)})
    changes = {"embed.weight": {3: 5.0}, "layers.0.w": {0: 2.0}}
    return make_patch(BASE, changes, provenance=provenance, dense={"embed.weight": torch.full((2, 4), value)})


def test_what_a_patch_says_of_new_rows_must_hold_together() -> None:
    assert grown_patch().provenance.grown["embed.weight"].start == 7
    assert grown_patch(()).provenance.grown["embed.weight"].tokens == ()
    for start, tokens, fact in ((6, ("<a>", None), "do not continue"), (7, ("<a>",), "1 tokens for 2"), (0, (), "not")):
        with pytest.raises(PatchError, match=fact):
            grown_patch(tokens, start=start)
    with pytest.raises(PatchError, match="new rows that are not there"):
        replace(grown_patch(), dense={})


@pytest.mark.parametrize(
    "grown",
    [
        [],
        {"embed.weight": None},
        {"embed.weight": {"from": "7", "tokens": []}},
        {"embed.weight": {"from": True, "tokens": []}},
        {"embed.weight": {"from": -7, "tokens": []}},
        {"embed.weight": {"from": 0, "tokens": []}},
        {"embed.weight": {"from": 6, "tokens": []}},
        {"embed.weight": {"from": 7, "tokens": "ab"}},
        {"embed.weight": {"from": 7, "tokens": [1, 2]}},
        {"embed.weight": {"from": 7, "tokens": ["<a>"]}},
        {"layers.0.w": {"from": 2, "tokens": []}},
        {"another": {"from": 7, "tokens": []}},
    ],
)
def test_a_file_with_rows_that_contradict_it_is_refused(grown: Any, tmp_path: Path) -> None:
    header, meta, payload = split_file(patch_bytes(grown_patch()))
    (tmp_path / "good").write_bytes(join_file(header, meta, payload))
    assert equal_patches(load_patch(tmp_path / "good"), grown_patch())
    (tmp_path / "bad").write_bytes(join_file(header, meta | {"grown": grown}, payload))
    with pytest.raises(PatchFormatError, match=r"grown|new rows|tokens"):
        load_region(tmp_path / "bad")


def test_without_the_key_a_reader_refuses_by_shape_or_what_has_entries_too(tmp_path: Path) -> None:
    header, meta, payload = split_file(patch_bytes(grown_patch()))
    del meta["grown"]
    (tmp_path / "older").write_bytes(join_file(header, meta, payload))
    with pytest.raises(PatchFormatError, match=r"older: tensor 'embed\.weight': a patch holds entries .* not both"):
        load_patch(tmp_path / "older")
    target = StoredTarget(Checkpoint.open(write_single(tmp_path / "base", BASE)))
    assert check_compatible(grown_patch(), target).fits
    rows = make_patch(BASE, {"layers.0.w": {0: 2.0}}, dense=grown_patch().dense)
    assert "cannot be replaced whole by [2, 4]" in check_compatible(rows, target).reasons[0]


def test_entries_and_the_whole_of_one_tensor_make_no_patch() -> None:
    changes = {"layers.0.w": {0: 2.0}}
    make_patch(BASE, changes, dense={"layers.1.w": torch.ones(3)})  # the control
    with pytest.raises(PatchError, match=r"'layers\.0\.w': a patch holds entries .* not both"):
        make_patch(BASE, changes, dense={"layers.0.w": torch.ones(3)})


def test_a_mask_says_nothing_of_rows(tmp_path: Path) -> None:
    patch = grown_patch()
    save_patch(patch.mask, tmp_path / "mask", provenance=patch.provenance)
    assert load_region(tmp_path / "mask")[1].grown == {}


def test_two_vocabularies_join_where_they_are_one(tmp_path: Path) -> None:
    base = Checkpoint.open(write_single(tmp_path / "base", BASE))
    merge_patches(base, [grown_patch(), grown_patch()], tmp_path / "same")
    rows = Checkpoint.open(tmp_path / "same").read("embed.weight")
    assert rows.shape == (9, 4)
    assert rows.view(-1)[3] == 5
    assert rows[7:].eq(1).all()
    for other, fact in (
        (grown_patch(("<c>", "<d>")), "'<a>', '<b>' and '<c>', '<d>'"),
        (grown_patch(value=2.0), "own"),
    ):
        with pytest.raises(OverlapError, match=fact):
            merge_patches(base, [grown_patch(), other], tmp_path / "none")
        for rule, value in (("first", 1.0), ("last", float(other.dense["embed.weight"][0, 0]))):
            out = tmp_path / f"{rule} {fact[:3]}"
            merge_patches(base, [grown_patch(), other], out, on_overlap=rule)  # type: ignore[arg-type]
            assert Checkpoint.open(out).read("embed.weight")[7:].eq(value).all()
    assert not (tmp_path / "none").exists()


def test_rows_that_files_hold_already_are_left_or_refused(tmp_path: Path) -> None:
    tensors = BASE | {"embed.weight": torch.cat([BASE["embed.weight"], torch.ones(2, 4)])}
    checkpoint = Checkpoint.open(write_single(tmp_path / "held", tensors))
    merge_patches(checkpoint, [grown_patch()], tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").spec("embed.weight").shape == (9, 4)
    with pytest.raises(PatchMismatchError, match="other rows than the patch brings, from row 7 on"):
        merge_patches(checkpoint, [grown_patch(value=3.0)], tmp_path / "none")


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_written_over_others_where_a_mismatch_is_allowed_as_on_a_live_model(
    tied: bool, tmp_path: Path
) -> None:
    base, tuned = pair_on_disk(tmp_path, small_llama(tied=tied), ["<a>", "<b>"])
    patch = diff_checkpoints(base, tuned)
    other = grow(LlamaForCausalLM.from_pretrained(base), N + 2)
    with torch.no_grad():
        other.model.embed_tokens.weight[N:] += 3
    target = Checkpoint.open(save_model(other, tmp_path / "other"))
    with pytest.raises(PatchMismatchError):
        merge_patches(target, [patch], tmp_path / "none")
    n = merge_patches(target, [patch], tmp_path / "out", allow_mismatch=True)
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "out")
    before = bits_of(other)
    with apply_patch(other, patch, allow_mismatch=True) as grafted:
        assert n == grafted.k == len(patch)
        assert bits_of(merged) == bits_of(other) != before
        for name, rows in patch.dense.items():
            assert torch.equal(merged.state_dict()[name][N:], rows)
    assert AutoConfig.from_pretrained(tmp_path / "out").vocab_size == N + 2


def test_entries_within_rows_that_are_there_stay_on_top_of_them(tmp_path: Path) -> None:
    tensors = BASE | {"embed.weight": torch.cat([BASE["embed.weight"], torch.zeros(2, 4)])}
    checkpoint = Checkpoint.open(write_single(tmp_path / "held", tensors))
    above = make_patch(tensors, {"embed.weight": {1: 4.0, 30: 6.0}})
    without = replace(grown_patch(), mask=Mask.of(grown_patch().mask.specs, {"layers.0.w": [0]}))
    for number, patches in enumerate(([without, above], [above, without])):
        merge_patches(checkpoint, patches, tmp_path / f"{number}", allow_mismatch=True)
        merged = Checkpoint.open(tmp_path / f"{number}").read("embed.weight").flatten()
        goal = torch.cat([torch.zeros(28), torch.ones(8)]).index_put((torch.tensor([1, 30]),), torch.tensor([4.0, 6.0]))
        assert torch.equal(merged, goal)


def test_buffers_are_no_weights_in_what_a_patch_counts(tmp_path: Path) -> None:
    before = {
        "layers.0.w": torch.zeros(4),
        "norm.running_mean": torch.zeros(4),
        "norm.num_batches_tracked": torch.tensor(1),
    }
    after = {
        "layers.0.w": torch.ones(4),
        "norm.running_mean": torch.ones(4),
        "norm.num_batches_tracked": torch.tensor(9),
    }
    patch = diff_checkpoints(write_single(tmp_path / "base", before), write_single(tmp_path / "tuned", after))
    assert (len(patch), patch.k) == (9, 4)
    save_patch(patch, tmp_path / "patch")
    _, meta, _ = split_file((tmp_path / "patch").read_bytes())
    assert (meta["k"], meta["density"]) == (4, 1.0)
    assert equal_patches(load_patch(tmp_path / "patch"), patch)
    merge_patches(Checkpoint.open(tmp_path / "base"), [patch], tmp_path / "out")
    out = Checkpoint.open(tmp_path / "out")
    assert bits_of({name: out.read(name) for name in out.names}) == bits_of(after)
