"""What a run of the model adds: activations of real tokens alone, and the texts that change most."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, SwitchTransformersConfig, SwitchTransformersEncoderModel

from graft.errors import ConfigError, PatchMismatchError
from graft.explain.activations import measure_activations
from graft.explain.changed_texts import find_changed_texts
from graft.explain.explainer import explain_patch
from graft.files.tensor_spec import TensorSpec
from graft.localize.diff import diff_checkpoints
from graft.localize.localization import localize_skill
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.specs.head import HeadSpec
from graft.specs.localize import LocalizeSpec
from graft.specs.runtime import Runtime
from graft.tasks.head import Head, open_head
from graft.tasks.heads.lm import LanguageModelHead
from graft.tasks.heads.similarity import SimilarityHead
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task
from tests.checkpoints import nudged
from tests.models import MOODS, toy_examples, toy_spec, write_bert, write_causal, write_task

READER = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def patch(shelf: Path) -> Patch:
    return diff_checkpoints(shelf / "base", shelf / "tuned", scope="layers", budget=300)


@pytest.fixture
def head(base: Path) -> Head:
    return open_head(base, toy_spec(), Runtime("cpu"))


def test_activations_are_those_of_real_tokens_in_any_batch(head: Head) -> None:
    examples = toy_examples(9)
    inputs: list[torch.Tensor] = []
    hook = head.model.get_submodule(READER.removesuffix(".weight")).register_forward_pre_hook(
        lambda _, states: inputs.append(states[0][0])
    )
    measure_activations(head, [], [], examples, batch_size=1)  # one text at a time has no padding
    hook.remove()
    tokens = torch.cat(inputs).double()  # (tokens, width)
    for batch_size in (1, 4, 9):
        found = measure_activations(head, [READER], [3, 5], examples, batch_size=batch_size)
        assert (found.n_texts, found.n_tokens, found.n_matrices) == (9, len(tokens), 1)
        row = found.dimensions[0]
        assert row.mean == pytest.approx(float(tokens[:, 3].mean()), abs=1e-6)
        assert row.spread == pytest.approx(float(tokens[:, 3].std(correction=0)), rel=1e-5)
        sizes = tokens.square().mean(0).sqrt()
        assert row.rms == pytest.approx(float(sizes[3]), rel=1e-5)
        assert row.times_median == pytest.approx(float(sizes[3] / sizes.quantile(0.5)), rel=1e-5)
        assert found.largest[0].dimension == int(sizes.argmax())
        assert row.position == 1 + int((sizes > sizes[3]).sum())


def test_what_is_no_module_of_the_model_is_told(head: Head) -> None:
    assert measure_activations(head, ["nowhere.weight"], [0], toy_examples(2), batch_size=2).not_measured == (
        "nowhere.weight",
    )


def test_an_expert_is_not_measured_on_the_texts_alone_that_went_to_it_whole(head: Head) -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 1, "num_experts": 2}
    sparse = {"num_sparse_encoder_layers": 1, "encoder_sparse_step": 1, "expert_capacity": 99}
    config = SwitchTransformersConfig(vocab_size=len(head.tokenizer), **sizes, **sparse)
    model, examples = SwitchTransformersEncoderModel(config).eval(), toy_examples(12)
    words = [set(head.tokenizer(example.texts[0])["input_ids"]) for example in examples]
    rare = min(words[0] - set.intersection(*words))
    with torch.no_grad():  # all tokens go to the first expert but that word, which some texts lack
        model.get_input_embeddings().weight.fill_(1)[rare] = -1
        model.encoder.block[0].layer[1].mlp.router.classifier.weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 16))
    experts = SimilarityHead(model, head.tokenizer, toy_spec())
    names = [f"encoder.block.0.layer.1.mlp.experts.expert_{i}.wi.weight" for i in range(2)]
    for batch_size in (1, 12):
        found = measure_activations(experts, names, [3], examples, batch_size=batch_size)
        assert found.not_measured == tuple(names)
        assert not found.dimensions


def test_texts_that_change_most(head: Head, base: Path, tuned: Path) -> None:
    patch = diff_checkpoints(base, tuned, budget=3000)  # enough to change labels
    examples = toy_examples(24)
    before = head.predict(examples).double().log_softmax(-1)
    found = find_changed_texts(head, patch, examples, batch_size=24)
    assert torch.equal(head.predict(examples).double().log_softmax(-1), before)  # taken off again
    assert [text.kl for text in found.most] == sorted((text.kl for text in found.most), reverse=True)
    assert (len(found.most), found.n) == (10, 24)
    assert found.most[0].kl > found.mean_kl > 0
    assert found.n_flipped
    first = found.most[0]
    assert first.before is not None
    assert first.after is not None
    assert first.gold in first.before
    p, q = (torch.tensor([row["sad"], row["glad"]]) for row in (first.before, first.after) if len(row) == 2)
    assert first.kl == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4)
    other = find_changed_texts(head, patch, examples, batch_size=5)
    assert [text.texts for text in other.most] == [text.texts for text in found.most]
    assert other.mean_kl == pytest.approx(found.mean_kl, rel=1e-4)


def test_a_text_that_the_data_hold_often_is_shown_once(head: Head, base: Path, tuned: Path) -> None:
    patch = diff_checkpoints(base, tuned, budget=3000)
    different = list(dict.fromkeys(toy_examples(24)))
    assert len(different) >= 10
    found = find_changed_texts(head, patch, [example for example in different for _ in range(4)], batch_size=24)
    once = find_changed_texts(head, patch, different, batch_size=24)
    assert found.n == 4 * once.n
    assert found.mean_kl == pytest.approx(once.mean_kl, rel=1e-4)
    assert [text.texts for text in found.most] == [text.texts for text in once.most]


def test_a_language_model_is_compared_token_by_token(tmp_path: Path) -> None:
    folder = write_causal(tmp_path / "base", steps=4)
    spec = toy_spec(labels=(), head=HeadSpec("lm"))
    head = LanguageModelHead.load(folder, spec, torch.float32)
    tuned = LanguageModelHead.load(folder, spec, torch.float32)
    nudged(tuned.model).save_pretrained(tmp_path / "tuned")
    tuned.tokenizer.save_pretrained(tmp_path / "tuned")
    patch = diff_checkpoints(folder, tmp_path / "tuned", budget=400)
    examples = toy_examples(6)
    found = find_changed_texts(head, patch, examples, batch_size=2)
    assert (found.n, found.n_flipped, found.most[0].gold) == (6, None, None)
    assert found.mean_kl > 0
    task = Task.of(validation=[{"text": text.texts[0]} for text in examples], head="lm")
    explained = explain_patch(patch, folder, task=task, device="cpu")
    assert explained.texts is not None
    assert explained.texts.mean_kl == pytest.approx(found.mean_kl)
    assert explained.activations is not None
    assert explained.activations.n_matrices == len(explained.readers) > 0


def test_a_head_that_the_patch_brings_predicts_before_too(shelf: Path, tmp_path: Path) -> None:
    options = {"head": {"kind": "classifier"}, "ood": {}, "train": {"optimizer": "adamw", "lr": 3e-3, "epochs": 1}}
    task = Task.load(write_task(tmp_path / "toy", **options))
    base = shelf / "base"
    train_task(base, task, tmp_path / "tuned")
    patch = localize_skill(base, tmp_path / "tuned", task, LocalizeSpec("magnitude", budget=50))
    assert patch.dense
    first, other = (explain_patch(patch, base, task=task.with_seed(seed), device="cpu").texts for seed in (1, 2))
    assert first is not None
    assert first == other  # though the base's own head is drawn by the seed
    head = open_head(base, task.spec, Runtime("cpu"))
    with torch.no_grad():
        for name, tensor in patch.dense.items():
            head.model.get_parameter(name).copy_(tensor)
    before = head.predict(task.validation_examples()).double().softmax(-1)
    shown = {example.texts: row for example, row in zip(task.validation_examples(), before.tolist(), strict=True)}
    for text in first.most:
        assert text.before is not None
        for label, p in text.before.items():
            assert p == pytest.approx(shown[text.texts][MOODS.index(label)], abs=1e-6)


def test_answers_are_compared_by_their_tokens(tmp_path: Path) -> None:
    folder = write_causal(tmp_path / "base", steps=4)
    model = LanguageModelHead.load(folder, toy_spec(labels=(), head=HeadSpec("lm")), torch.float32)
    nudged(model.model).save_pretrained(tmp_path / "tuned")
    model.tokenizer.save_pretrained(tmp_path / "tuned")
    patch = diff_checkpoints(folder, tmp_path / "tuned", budget=400)
    rows = [{"prompt": text.texts[0], "completion": " good film"} for text in toy_examples(5)]
    task = Task.of(validation=rows, head="completion", prompt="prompt", completion="completion")
    explained = explain_patch(patch, folder, task=task, device="cpu")
    assert explained.texts is not None
    assert explained.texts.n == 5
    assert explained.texts.most[0].texts[1] == " good film"
    assert explained.texts.mean_kl > 0
    single = explain_patch(patch, folder, task=task, limit=1, device="cpu").texts
    assert single is not None
    assert single.most[0].kl in [pytest.approx(text.kl) for text in explained.texts.most]


def test_a_mask_has_activations_and_no_values_to_change_texts(base: Path, patch: Patch, task: Task) -> None:
    explained = explain_patch(patch.mask, base, task=task, limit=8)
    assert explained.activations is not None
    assert explained.activations.n_texts == 8
    assert explained.texts is None


def test_conv1d_of_a_folder_and_of_a_live_model(tmp_path: Path) -> None:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=60, n_positions=16, **ends))
    model.save_pretrained(tmp_path)
    name = "transformer.h.0.attn.c_proj.weight"  # square, so that its shape does not tell
    mask = Mask.of({name: TensorSpec("F32", (32, 32))}, {name: [96, 97, 98]})
    for base in (tmp_path, model):
        tensor = explain_patch(mask, base).tensors[0]
        assert tensor.place.role == "writes"
        assert tensor.inputs is not None
        assert tensor.inputs.commonest() == [(3, 3)]


def test_refusals(base: Path, patch: Patch, task: Task, tmp_path: Path) -> None:
    assert explain_patch(patch, base).k == 300
    with pytest.raises(PatchMismatchError, match="does not fit"):
        explain_patch(patch, write_bert(tmp_path / "other", seed=9))
    with pytest.raises(ConfigError, match="1 at least"):
        explain_patch(patch, base, task=task, batch_size=0)
    with pytest.raises(ConfigError, match="no entry"):
        explain_patch(patch.mask - patch.mask, base)


@pytest.mark.parametrize("template", ["{text} it was {mask}", "sorry sorry {text} it was {mask}"])
def test_activations_are_those_of_the_prompt(template: str, tmp_path: Path) -> None:
    folder = write_causal(tmp_path / "base", steps=0)
    head = open_head(folder, toy_spec(head=HeadSpec("verbalizer", template=template, words=("bad", "good"))))
    name = "model.layers.0.self_attn.q_proj.weight"
    states: list[torch.Tensor] = []
    examples = toy_examples(6)
    hook = head.model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
        lambda _, inputs: states.append(inputs[0][0].double())
    )
    head.predict(examples, batch_size=1)
    hook.remove()
    tokens = torch.cat(states)
    found = measure_activations(head, [name], [3], examples, batch_size=4)
    assert found.n_tokens == len(tokens)
    assert found.dimensions[0].mean == pytest.approx(float(tokens[:, 3].mean()), abs=1e-6)
    assert found.dimensions[0].rms == pytest.approx(float(tokens[:, 3].square().mean().sqrt()), rel=1e-5)
