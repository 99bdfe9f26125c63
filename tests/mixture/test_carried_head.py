"""Heads that skills bring: each row's logits are those of a classifier of its own, the backbone run once."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BartModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2Model,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
)

import graft
from graft.errors import ConfigError, DataError, PatchMismatchError
from graft.patch.skill_patch import Patch
from tests.checkpoints import nudged, save_model, small_bert, small_classifier
from tests.models import SIZES

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


@torch.no_grad()
def test_a_row_can_be_read_by_the_head_of_another_skill(tmp_path: Path) -> None:
    """The backbone has the row's skills, the head is the one that is named: of the base's rows too."""
    save_model(small_bert(), tmp_path / "base")
    (three, first), (two, second) = tuned(tmp_path, 1, 3), tuned(tmp_path, 2, 2)
    models: dict[str, Any] = {"three": first, "two": second}
    rows: list[Any] = [None, "three", ["two", "three"], "two", "three"]
    heads, batch = ["two", "two", "three", "three", "three"], {"input_ids": IDS, "attention_mask": MASK}
    both, (plain, other) = small_bert().eval(), (dataclasses.replace(patch, dense={}) for patch in (three, two))
    bodies = [small_bert().eval(), first.bert, both, second.bert, first.bert]
    served = graft.serve_patches(small_bert().eval(), {"three": three, "two": two}, on_overlap="last")
    with graft.apply_patch(both, other, plain, on_overlap="last"), served as mixed:
        with mixed.skills(rows):
            found = mixed.head_logits(heads=heads, **batch)
        for row, (body, name, logits) in enumerate(zip(bodies, heads, found, strict=True)):
            expected = models[name].classifier(body(**batch).pooler_output)[row]
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
        assert (mixed.head_labels("two"), len(mixed.head_labels("three") or ())) == (("LABEL_0", "LABEL_1"), 3)
        mixed.add("plain", plain)
        assert mixed.head_labels("plain") is None
        for wrong, said in ((["two"] * 2, "5 rows, but heads were named for 2"), (["plain"] * 5, "brings no head"),
                            (["none"] * 5, "there is no skill 'none'"), ([], "heads were named for 0")):  # fmt: skip
            with pytest.raises(ConfigError, match=said), mixed.skills(rows):
                mixed.head_logits(heads=wrong, **batch)
        with mixed.skills(["three"]):  # one name, for rows that were multiplied
            assert torch.stack(mixed.head_logits(**batch)).shape == (5, 3)


def carry(folder: Path, body: Any, kind: Any, pad: int | None = None, **changes: Any) -> tuple[Patch, Any]:
    """A classifier whose backbone is the body's but for a few entries, and its patch."""
    save_model(body, folder / "base")
    config = copy.deepcopy(body.config)
    vars(config).update({"num_labels": 2, "pad_token_id": pad} | changes)
    torch.manual_seed(1)
    model = kind(config).to(body.dtype).eval()
    moved = {name: weight for name, weight in nudged(body).state_dict().items() if ".mlp." in name or ".fc" in name}
    model.base_model.load_state_dict(body.state_dict() | moved)
    return graft.diff_checkpoints(folder / "base", save_model(model, folder / "tuned")), model


def llama() -> LlamaModel:
    torch.manual_seed(0)
    more: dict[str, Any] = {"num_key_value_heads": 1, "initializer_range": 0.2, "pad_token_id": None}
    return LlamaModel(LlamaConfig(vocab_size=16, max_position_embeddings=32, **more, **SIZES)).eval()


@contextlib.contextmanager
def carried(body: Any, patch: Patch, n_rows: int) -> Iterator[graft.MixedModel]:
    with graft.serve_patches(copy.deepcopy(body), {"own": patch}) as mixed, mixed.skills(["own"] * n_rows):
        yield mixed


def padded(texts: list[list[int]], pad: int, *, left: bool = False) -> dict[str, torch.Tensor]:
    width = max(map(len, texts))
    gaps = [[pad] * (width - len(text)) for text in texts]
    ids = [[*gap, *text] if left else [*text, *gap] for text, gap in zip(texts, gaps, strict=True)]
    ones = [[1] * len(text) for text in texts]
    mask = [[0] * len(gap) + own if left else own + [0] * len(gap) for own, gap in zip(ones, gaps, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


TEXTS = [[2, 5, 9, 7, 11, 3], [2, 8, 3], [2, 12, 6, 3]]


@torch.no_grad()
@pytest.mark.parametrize("recorded", [None, 0, 3, 99])  # 99: a token that the tuned vocabulary has, and this does not
@pytest.mark.parametrize(("pad", "left"), [(0, False), (4, False), (0, True), (3, False)])
def test_a_decoder_is_read_at_the_last_token_of_each_text(
    recorded: int | None, pad: int, left: bool, tmp_path: Path
) -> None:
    """Whatever token pads. One that the patch records and texts end with is left out, as transformers does."""
    body = llama()
    patch, model = carry(tmp_path, body, LlamaForSequenceClassification)
    task = patch.provenance.task or {}
    head = {**task["head"], "config": {} if recorded is None else {"pad_token_id": recorded}}
    patch = dataclasses.replace(patch, provenance=dataclasses.replace(patch.provenance, task={**task, "head": head}))
    model.config.pad_token_id = recorded
    expected = torch.cat([model(input_ids=torch.tensor([text])).logits for text in TEXTS])
    batch = padded(TEXTS, pad, left=left)
    if left:
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with carried(body, patch, 3) as mixed:
        torch.testing.assert_close(torch.stack(mixed.head_logits(**batch)), expected, atol=1e-5, rtol=1e-4)
        embeds = mixed.model.get_input_embeddings()(batch.pop("input_ids"))  # type: ignore[operator]
        if recorded != 3:
            found = mixed.head_logits(inputs_embeds=embeds, **batch)
            torch.testing.assert_close(torch.stack(found), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_token_that_pads_can_be_named(tmp_path: Path) -> None:
    """Before it the class is read, as evaluation does where a tokenizer pads with what ends a text."""
    body = llama()
    patch, model = carry(tmp_path, body, LlamaForSequenceClassification, 0)
    model.config.pad_token_id = 3
    batch = padded(TEXTS, 3)
    with carried(body, patch, 3) as mixed:
        found = torch.stack(mixed.head_logits(pad_token_id=3, **batch))
        ends = torch.stack(mixed.head_logits(**batch))
    torch.testing.assert_close(found, model(**batch).logits, atol=1e-5, rtol=1e-4)
    assert (found - ends).abs().min() > 1e-3


@torch.no_grad()
def test_segments_do_not_reach_a_model_that_has_none(tmp_path: Path) -> None:
    """GPT-2 would add the embedding of token 0 or 1 to every token."""
    torch.manual_seed(0)
    body = GPT2Model(GPT2Config(vocab_size=16, n_positions=32, n_embd=32, n_layer=2, n_head=2)).eval()
    patch, model = carry(tmp_path, body, GPT2ForSequenceClassification, 0)
    batch = padded(TEXTS, 0)
    with carried(body, patch, 3) as mixed:
        found = mixed.head_logits(token_type_ids=torch.zeros_like(batch["input_ids"]), **batch)
    torch.testing.assert_close(torch.stack(found), model(**batch).logits, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("of_base", "of_head"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_a_head_may_have_another_dtype_than_the_base(
    of_base: torch.dtype, of_head: torch.dtype, tmp_path: Path
) -> None:
    """The wider one computes: the head's values and the states are both kept."""
    save_model(small_bert().to(of_base), tmp_path / "base")
    model = small_classifier(nudged(small_bert()), 2).eval().to(of_base)
    model.classifier.to(of_head)
    patch = graft.diff_checkpoints(tmp_path / "base", save_model(model, tmp_path / "tuned"))
    assert {tensor.dtype for tensor in patch.dense.values()} == {of_head}
    batch = {"input_ids": IDS, "attention_mask": MASK}
    with carried(small_bert().to(of_base).eval(), patch, 5) as mixed:
        found = torch.stack(mixed.head_logits(**batch))
        states = mixed.model(**batch).pooler_output.float()
    assert found.dtype == torch.float32
    expected = torch.nn.functional.linear(states, model.classifier.weight.float(), model.classifier.bias.float())
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_an_encoder_decoder_is_read_at_the_last_end_token(tmp_path: Path) -> None:
    """However many a text has: texts with another number share the batch."""
    torch.manual_seed(0)
    parts = ("encoder", "decoder")
    sizes: dict[str, Any] = {f"{part}_{key}": 2 for part in parts for key in ("layers", "attention_heads")}
    sizes |= {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "init_std": 0.2, "num_labels": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    body = BartModel(BartConfig(vocab_size=16, max_position_embeddings=32, **sizes, **ids)).eval()
    patch, model = carry(tmp_path, body, BartForSequenceClassification, 0)
    texts = [*TEXTS, [2, 9, 3, 7, 7, 3]]
    expected = torch.cat([model(input_ids=torch.tensor([text])).logits for text in texts])
    with carried(body, patch, 4) as mixed:
        found = torch.stack(mixed.head_logits(**padded(texts, 0)))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        with pytest.raises(DataError, match="a text has no end token"):
            mixed.head_logits(**padded([*TEXTS, [2, 9]], 0))


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
