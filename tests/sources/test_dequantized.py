"""A model folder made once from a GGUF file: the right values, one hash, nothing half-made, nothing else accepted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import CheckpointError
from graft.files.embedded import MODEL_FILES, hash_file, hash_folder, place_of
from graft.files.registry import EmbeddedEntry
from graft.sources.dequantized import provide_model, write_model
from graft.sources.gguf_model import GgufFile, split_rotations
from graft.sources.gguf_tokenizer import compose_tokenizer
from graft.tensors.checkpoint import Checkpoint

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefgh0123456789Ġ", "ab", "Ġa", "ĠĠ"]
METADATA: dict[str, Any] = {
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, 3, *[1] * (len(TOKENS) - 3)],
    "tokenizer.ggml.merges": ["a b", "Ġ a", "Ġ Ġ"],
}
WIDTH, HEADS, KV_HEADS, INNER = 64, 4, 2, 96


def join_rotations(rows: torch.Tensor, n_heads: int) -> torch.Tensor:
    """What llama.cpp's converter does: the first and second halves of a head are laced."""
    halves = rows.reshape(n_heads, 2, -1, rows.shape[-1])
    return halves.transpose(1, 2).reshape(rows.shape)


@pytest.mark.parametrize(("n_heads", "width"), [(1, 4), (3, 8), (9, 64)])
def test_rows_are_ordered_as_transformers_has_them(n_heads: int, width: int) -> None:
    rows = torch.arange(n_heads * width * 2).reshape(n_heads * width, 2)
    assert torch.equal(split_rotations(join_rotations(rows, n_heads), n_heads), rows)
    assert torch.equal(split_rotations(rows, n_heads)[:2], rows[[0, 2]])


def test_digits_stand_alone_and_spaces_before_them_stay_together() -> None:
    import json

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(compose_tokenizer(METADATA)))
    assert tokenizer.encode("ab a12").tokens == ["ab", "Ġa", "1", "2"]
    assert tokenizer.encode("a  12").tokens == ["a", "ĠĠ", "1", "2"]  # without the step before: Ġ Ġ
    assert tokenizer.encode("<|im_start|>a<|im_end|>").ids == [1, TOKENS.index("a"), 2]
    assert tokenizer.decode(tokenizer.encode("ab  a 12").ids) == "ab  a 12"


def write_gguf(path: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """A tiny Llama in Q4_1 and Q8_0; returns its values as transformers names and orders them."""
    gguf = pytest.importorskip("gguf", reason="needs the package gguf (make llm)")
    kinds = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types(METADATA["tokenizer.ggml.token_type"])
    writer.add_token_merges(METADATA["tokenizer.ggml.merges"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    head, layer = WIDTH // HEADS, "model.layers.0"
    shapes = {  # name of either side, rows and columns, heads of rotations
        ("token_embd", "model.embed_tokens"): (len(TOKENS), WIDTH, 0),
        ("output_norm", "model.norm"): (WIDTH, 0, 0),
        ("blk.0.attn_norm", f"{layer}.input_layernorm"): (WIDTH, 0, 0),
        ("blk.0.ffn_norm", f"{layer}.post_attention_layernorm"): (WIDTH, 0, 0),
        ("blk.0.attn_q", f"{layer}.self_attn.q_proj"): (WIDTH, WIDTH, HEADS),
        ("blk.0.attn_k", f"{layer}.self_attn.k_proj"): (KV_HEADS * head, WIDTH, KV_HEADS),
        ("blk.0.attn_v", f"{layer}.self_attn.v_proj"): (KV_HEADS * head, WIDTH, 0),
        ("blk.0.attn_output", f"{layer}.self_attn.o_proj"): (WIDTH, WIDTH, 0),
        ("blk.0.ffn_gate", f"{layer}.mlp.gate_proj"): (INNER, WIDTH, 0),
        ("blk.0.ffn_up", f"{layer}.mlp.up_proj"): (INNER, WIDTH, 0),
        ("blk.0.ffn_down", f"{layer}.mlp.down_proj"): (WIDTH, INNER, 0),
    }
    values, generator = {}, torch.Generator().manual_seed(seed)
    for (theirs, ours), (rows, columns, heads) in shapes.items():
        tensor = torch.randn((rows, columns) if columns else (rows,), generator=generator)
        kind = kinds.F32 if not columns else kinds.Q8_0 if theirs == "token_embd" else kinds.Q4_1
        stored = join_rotations(tensor, heads) if heads else tensor
        packed = gguf.quants.quantize(stored.numpy(), kind)
        writer.add_tensor(f"{theirs}.weight", packed, raw_dtype=kind)
        read = torch.tensor(gguf.quants.dequantize(packed, kind))
        values[f"{ours}.weight"] = (split_rotations(read, heads) if heads else read).bfloat16()
        assert (values[f"{ours}.weight"] - tensor).abs().max() < 0.3  # as close as four bits are
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedEntry:
    """The row of a package that carries a tiny GGUF file, with hashes of file and folder."""
    (tmp_path / "toy_language_model").mkdir()
    file = tmp_path / "toy_language_model" / "toy.gguf"
    write_gguf(file)
    (tmp_path / "expected").mkdir()
    write_model(GgufFile(file), tmp_path / "expected")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path / "cache"))
    provide_model.cache_clear()
    return EmbeddedEntry(
        name="embedded:toy-lm",
        help="a toy",
        target="graft.sources.dequantized:provide_model",
        package="toy_language_model",
        install="--no-deps toy",
        content="toy.gguf",
        folder="toy-dequantized",
        sha256=hash_file(file),
        made_sha256=hash_folder(tmp_path / "expected"),
    )


def test_values_are_those_of_the_file(tmp_path: Path) -> None:
    values = write_gguf(tmp_path / "toy.gguf")
    (tmp_path / "model").mkdir()
    write_model(GgufFile(tmp_path / "toy.gguf"), tmp_path / "model")
    checkpoint = Checkpoint.open(tmp_path / "model")  # which holds them against the architecture
    assert set(checkpoint.names) == set(values)
    assert all(torch.equal(checkpoint.read(name), wanted) for name, wanted in values.items())


def test_transformers_reads_model_tokenizer_and_chat_template(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_gguf(tmp_path / "toy.gguf")
    (tmp_path / "model").mkdir()
    write_model(GgufFile(tmp_path / "toy.gguf"), tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (model.config.rms_norm_eps, model.config.rope_parameters["rope_theta"]) == (1e-5, 1e5)
    assert not hasattr(model.config, "quantization_config")
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer("ab").input_ids == [TOKENS.index("ab")]  # nothing is put before a text
    assert tokenizer.model_max_length == 128
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "ab"


def test_it_is_made_once_and_a_damaged_one_is_made_anew(entry: EmbeddedEntry) -> None:
    folder = provide_model(entry)
    assert folder == place_of(entry)
    assert sorted(file.name for file in folder.iterdir()) == sorted(MODEL_FILES)
    made = (folder / "config.json").stat().st_mtime_ns
    provide_model.cache_clear()
    assert provide_model(entry) == folder
    assert (folder / "config.json").stat().st_mtime_ns == made  # the one that was there
    for name in MODEL_FILES:
        with (folder / name).open("ab") as file:
            file.write(b" ")
        provide_model.cache_clear()
        assert hash_folder(provide_model(entry)) == entry.made_sha256
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]  # nothing temporary is left


def test_what_is_not_as_published_is_refused(entry: EmbeddedEntry, tmp_path: Path) -> None:
    other = dataclasses.replace(entry, made_sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"other values came out of toy.gguf than elsewhere"):
        provide_model(other)
    assert not place_of(entry).exists()
    write_gguf(tmp_path / "toy_language_model" / "toy.gguf", seed=1)
    with pytest.raises(CheckpointError, match=r"toy.gguf in the package has other bytes than were published; pip"):
        provide_model(entry)
    assert not place_of(entry).exists()


def test_a_missing_reader_is_said_and_not_needed_once_made(
    entry: EmbeddedEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = "importlib.util.find_spec"
    with monkeypatch.context() as without:
        without.setattr(
            find, lambda name: None if name == "gguf" else __import__("importlib").machinery.PathFinder.find_spec(name)
        )
        with pytest.raises(CheckpointError, match=r"gguf, which reads it, is missing; pip install --no-deps toy"):
            provide_model(entry)
    provide_model(entry)
    provide_model.cache_clear()
    with monkeypatch.context() as without:
        without.setattr(find, lambda name: None)
        assert provide_model(entry) == place_of(entry)
