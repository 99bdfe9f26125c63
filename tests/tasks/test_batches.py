"""What a model answers depends on the text alone, not on what is beside it in a batch or on a tokenizer's habits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import graft
from graft.errors import CheckpointError, ConfigError, DataError
from graft.memory.activations import estimate_activations
from graft.specs.head import HeadSpec
from graft.tasks.batches import longest_input, run_model
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from tests.mixture.mixing import draw_patch
from tests.models import SIZES, SPECIAL, WORDS, toy_rows, toy_spec

PLACES = 24
KEPT: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
DECODER: dict[str, Any] = {"vocab_size": len(WORDS), **KEPT}
ENCODER: dict[str, Any] = {"vocab_size": len(WORDS), **KEPT, **SIZES, "max_position_embeddings": PLACES}
SEQ2SEQ: dict[str, Any] = {**DECODER, "decoder_start_token_id": 0, "d_model": 32}
T5: dict[str, Any] = {**SEQ2SEQ, "d_kv": 16, "num_layers": 2, "num_heads": 2, "d_ff": 64}
BART: dict[str, Any] = {
    f"{side}_{key}": n
    for side in ("encoder", "decoder")
    for key, n in {"layers": 2, "attention_heads": 2, "ffn_dim": 64}.items()
}
FACTORS = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
LONGROPE: dict[str, Any] = {**ENCODER, "max_position_embeddings": 4 * PLACES, "rope_parameters": FACTORS,
                            "original_max_position_embeddings": PLACES}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any], int | None]] = {  # class, its settings, and the tokens it has places for
    "gpt2": ("GPT2", {**DECODER, "n_positions": PLACES, "n_embd": 32, "n_layer": 2, "n_head": 2}, PLACES),
    "bert": ("Bert", ENCODER, PLACES),
    "roberta": ("Roberta", {**ENCODER, "pad_token_id": 1, "type_vocab_size": 1}, PLACES - 2),
    "albert": ("Albert", {**ENCODER, "embedding_size": 16}, PLACES),
    "opt": (
        "OPT",
        {**DECODER, **SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": PLACES},
        PLACES,
    ),
    "t5": ("T5", T5, None),
    "bart": ("Bart", {**SEQ2SEQ, **BART, "num_labels": 2, "max_position_embeddings": PLACES}, PLACES),
    "llama": ("Llama", {**ENCODER, "num_key_value_heads": 1}, PLACES),
    # longer texts are turned by other factors, and every text beside them
    "phi3": ("Phi3", LONGROPE, PLACES),
    "xlnet": ("XLNet", {**DECODER, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}, None),
    "mamba": ("Mamba", {**DECODER, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, None),
}


def tokenizer(**options: Any) -> transformers.PreTrainedTokenizerFast:
    """Words, [CLS] before and [SEP] after, segments 0 and 1; it does not know what the model has places for."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    named = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **(named | options))


def write(folder: Path, name: str, suffix: str, **options: Any) -> Path:
    kind, settings, _ = CONFIGS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}{suffix}")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)  # so that positions and padding would tell
    model.save_pretrained(folder)
    tokenizer(**options).save_pretrained(folder)
    return folder


def texts(n: int = 9) -> list[Example]:
    """Of many lengths, some past the places there are."""
    rows = toy_rows(n, 5)
    return [
        Example((" ".join([row["text"]] * (i % 4 + 1)) + " film" * (i % 5),), row["label"])
        for i, row in enumerate(rows)
    ]


def alike(folder: Path, spec: Any, examples: list[Example]) -> Head:
    """One head of the folder, once its logits were seen to be the same in batches of every make."""
    head = open_head(folder, spec)
    alone = head.predict(examples, batch_size=1)
    assert alone.std() > 1e-3
    assert alone.argsort(0).unique().numel() > 2  # rows differ
    for side in ("right", "left"):
        head.tokenizer.padding_side = side
        for batch_size in (3, 64):
            order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(batch_size)).tolist()
            found = head.predict([examples[i] for i in order], batch_size=batch_size)
            assert torch.allclose(found, alone[order], atol=1e-4), (side, batch_size)
    return head


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "similarity") for name in CONFIGS), *((name, "classifier") for name in CONFIGS if name != "mamba")],
)
def test_logits_are_the_same_in_every_batch(name: str, kind: Any, tmp_path: Path) -> None:
    suffix = "ForSequenceClassification" if kind == "classifier" else "Model"
    options = {"model_input_names": ["input_ids"]} if name in ("albert", "llama") else {}  # no mask unless asked for
    folder = write(tmp_path / "m", name, suffix, padding_side="left", **options)
    head = alike(folder, toy_spec(head=HeadSpec(kind), max_length=1000), texts())
    longest = CONFIGS[name][2]
    assert longest_input(head.model) == longest
    assert head.limit == (longest or 1000)
    pairs = [Example((text.texts[0], other.texts[0]), 0) for text, other in zip(texts(), texts()[::-1], strict=True)]
    if kind == "classifier":
        alike(folder, toy_spec(head=HeadSpec(kind), text=("a", "b"), max_length=1000), pairs)


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi3", "mamba", "opt", "bart"])
def test_language_models_too(name: str, tmp_path: Path) -> None:
    suffix = {"gpt2": "LMHeadModel", "bart": "ForConditionalGeneration"}.get(name, "ForCausalLM")
    folder = write(tmp_path / "m", name, suffix, padding_side="left", mask_token="all")
    verbalizer = HeadSpec("verbalizer", template="{text} it was {mask}", words=("bad", "good"))
    alike(folder, toy_spec(head=verbalizer, max_length=1000), texts())
    if name != "bart":
        head = open_head(folder, toy_spec(labels=(), head=HeadSpec("lm"), max_length=1000))
        losses = [head.predict_columns(texts(), batch_size=n).log_likelihood for n in (1, 3, 64)]  # type: ignore[attr-defined]
        assert all(torch.allclose(torch.tensor(losses[0]), torch.tensor(other), atol=1e-4) for other in losses)


@pytest.mark.parametrize("head", ["choice", "lm", "verbalizer"])
def test_a_t5_is_refused_where_a_language_model_is_needed(head: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "t5", "ForConditionalGeneration")
    more = {"template": "{text} {mask}"} if head == "verbalizer" else {}
    spec = {"choice": {"choices": "c", "labels": ()}, "lm": {"labels": ()}, "verbalizer": {}}[head]
    with pytest.raises(CheckpointError, match=r"needs a .*language model, and the config's architecture is none"):
        open_head(folder, toy_spec(head=HeadSpec(head, **more), **spec))


@pytest.mark.parametrize("suffix", ["Model", "EncoderModel", "ForConditionalGeneration"])
def test_the_encoder_of_a_t5_is_pooled(suffix: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "t5", suffix)
    head = open_head(folder, toy_spec())
    assert type(head.model).__name__ == ("T5EncoderModel" if suffix == "EncoderModel" else "T5Model")
    encoder = transformers.T5EncoderModel.from_pretrained(folder).eval()
    ids = head.tokenizer("good film", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(encoder(input_ids=ids).last_hidden_state.mean(1), dim=-1)
        assert torch.allclose(head.embed([("good film",)]), expected, atol=1e-5)  # type: ignore[attr-defined]
    head.loss(texts(3)).backward()
    assert head.model.get_input_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize("pad", ["[SEP]", "film"])
def test_padding_may_be_a_token_that_texts_have(pad: str, tmp_path: Path) -> None:
    for name in ("gpt2", "llama", "bert"):
        folder = write(tmp_path / f"{name} {pad}", name, "ForSequenceClassification", pad_token=pad)
        alike(folder, toy_spec(head=HeadSpec("classifier")), texts())


def test_an_encoder_decoder_reads_texts_with_more_end_tokens_than_others(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "bart", "ForSequenceClassification")
    examples = [*texts(6), *(Example((f"{text.texts[0]} [SEP] bad",), 0) for text in texts(6))]
    alike(folder, toy_spec(head=HeadSpec("classifier")), examples)
    bare = tokenizer()
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", "$A $B:1", [])
    bare.save_pretrained(folder)
    with pytest.raises(DataError, match=r"the tokenizer puts no end token"):
        open_head(folder, toy_spec(head=HeadSpec("classifier"))).predict(examples)
    tokenizer(pad_token="[SEP]").save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"the tokenizer pads with the end token"):
        open_head(folder, toy_spec(head=HeadSpec("classifier")))


def test_a_saved_roberta_reads_as_before(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "roberta", "ForSequenceClassification")  # whose tokenizer pads with another id
    head = open_head(folder, toy_spec(head=HeadSpec("classifier")))
    head.model.save_pretrained(tmp_path / "again")
    head.tokenizer.save_pretrained(tmp_path / "again")
    again = open_head(tmp_path / "again", toy_spec(head=HeadSpec("classifier")))
    assert torch.equal(again.predict(texts()), head.predict(texts()))


@pytest.mark.parametrize("columns", [1, 2])
def test_each_text_by_itself_has_the_tokens_of_its_row(columns: int, tmp_path: Path) -> None:
    examples = [example.texts * columns for example in texts()]
    spec = toy_spec(head=HeadSpec("classifier"), text=("text", "b")[:columns] if columns > 1 else "text", max_length=12)
    head = open_head(write(tmp_path / "m", "bert", "ForSequenceClassification"), spec)
    batch, whole = head.tokenize(examples), head.tokenizer(*zip(*examples, strict=True))["input_ids"]
    encoded = head.encode(examples)
    masks = batch["attention_mask"].bool()
    rows = [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], masks, strict=True)]
    assert [item.ids for item in encoded] == rows
    assert [item.is_cut for item in encoded] == [len(ids) > 12 for ids in whole]
    assert len({item.is_cut for item in encoded}) == 2
    head.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", "$A $B:1", [])
    with pytest.raises(DataError, match=r"'' has no token to the model's tokenizer"):
        head.encode([("good",) * columns, ("",) * columns])


def test_what_a_tokenizer_or_model_lacks_is_named(tmp_path: Path) -> None:
    spec = toy_spec(head=HeadSpec("classifier"))
    folder = write(tmp_path / "m", "bert", "ForSequenceClassification")
    assert open_head(folder, dataclasses.replace(spec, max_length=3)).predict(texts()).isfinite().all()
    with pytest.raises(ConfigError, match=r"a text may have 2 tokens, .* no more than the special tokens"):
        open_head(folder, dataclasses.replace(spec, max_length=2)).predict(texts())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"return_dict": False}))
    assert open_head(folder, spec).predict(texts()).isfinite().all()
    larger = tokenizer()
    larger.add_tokens(["gruyere"])
    larger.save_pretrained(folder)
    assert open_head(folder, spec).predict(texts()).isfinite().all()
    with pytest.raises(
        CheckpointError, match=rf"has the token 'gruyere' at {len(WORDS)}, and the model embeds {len(WORDS)}"
    ):
        open_head(folder, spec).predict([Example(("the gruyere",), 0)])
    bare = tokenizer()
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", "$A $B:1", [])
    from tokenizers import normalizers

    bare.backend_tokenizer.normalizer = normalizers.Replace("soup", "")
    bare.save_pretrained(folder)
    for examples in ([Example(("soup",), 0)], [Example(("soup",), 0), *texts()]):
        with pytest.raises(DataError, match=r"'soup' has no token"):
            open_head(folder, spec).predict(examples)


def test_activations_are_those_of_the_longest_input_there_can_be(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "roberta", "Model")
    kept = [
        estimate_activations(folder, toy_spec(max_length=n), 2, torch.float32, lambda name: True)
        for n in (PLACES - 2, 1000)
    ]
    assert kept[0] is not None
    assert kept[1] is not None
    assert kept[0].total == kept[1].total > 0


def test_an_error_of_ours_keeps_its_line() -> None:
    """As that of rows whose skills cannot be mixed, which is no fault of the checkpoint."""
    model = transformers.BertModel(transformers.BertConfig(**ENCODER)).eval()
    patch = draw_patch(model, 1)
    with (
        graft.serve_patches(model, {"a": patch}) as mixed,
        mixed.skills(["a", None]),
        pytest.raises(ConfigError, match=r"^the batch has 3 rows, but skills were named for 2$"),
    ):
        run_model(model, {"input_ids": torch.ones(3, 4, dtype=torch.int64)})
    with pytest.raises(CheckpointError, match="BertModel cannot be run on texts alone"):
        run_model(model, {"input_ids": torch.full((1, 4), 10**6)})


def test_texts_that_longrope_would_stretch_are_cut_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = open_head(write(tmp_path / "m", "phi3", "Model"), toy_spec(name="long", max_length=1000))
    head.inspect(texts(), "test")
    line = f"texts are cut to {PLACES} tokens, past which this model reads a whole batch otherwise (longrope)"
    assert line in capsys.readouterr().err
