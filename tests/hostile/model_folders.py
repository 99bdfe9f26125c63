"""Model folders that are wrong: config.json, weights, tokenizer files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tests.hostile.data_files import no_file
from tests.hostile.values import Draw, Meaning, gravest, misspelt, odd_value

Mutation = Callable[[Draw, Path], Meaning | None]
# what a mutation may raise over a folder that those before it have spoilt already
UNFIT = (AttributeError, LookupError, OSError, RuntimeError, SafetensorError, StopIteration, TypeError, ValueError)
CODE = "from pathlib import Path\nPath('executed').write_text('by a model folder')\nclass Mine:\n    pass\n"


def read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}


def write(path: Path, content: Any) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = read(path)
    if isinstance(content, dict):
        change(content)
        write(path, content)


def config_key(draw: Draw, folder: Path) -> Meaning | None:
    """A key dropped, misspelt, or with another value."""
    content = read(folder / "config.json")
    key = draw.choice(list(content)) if isinstance(content, dict) and content else "x"
    value = content.pop(key, None) if isinstance(content, dict) else None
    if draw.random() < 0.7:
        new = misspelt(draw, key) if draw.random() < 0.3 else key
        content[new] = value if new != key else odd_value(draw)
    write(folder / "config.json", content)
    return None


def config_sizes(draw: Draw, folder: Path) -> Meaning | None:
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "n_embd",
             "n_layer", "max_position_embeddings", "num_key_value_heads", "type_vocab_size", "d_model")  # fmt: skip
    held = [key for key in sizes if key in read(folder / "config.json")]
    if not held:
        return None
    key = draw.choice(held)
    value = draw.choice((0, -1, 1, 3, 31, 64, 1024, 10**6, 2**31, 2**63, "32", 32.0, None, True, [32]))
    edit(folder / "config.json", lambda content: content.update({key: value}))
    return "wrong" if key in ("num_hidden_layers", "n_layer") and value in (3, 31, 64, 1024) else None


def config_architecture(draw: Draw, folder: Path) -> Meaning | None:
    kinds = ("bert", "roberta", "llama", "gpt2", "t5", "vit", "albert", "mistral", "bart", "nope", "", None, 5, "Bert")
    classes = ("BertModel", "BertForMaskedLM", "BertForTokenClassification", "LlamaForCausalLM", "T5Model", "Nope",
               "BertForQuestionAnswering", "ViTModel", "builtins.eval", "")  # fmt: skip
    change: dict[str, Any] = {"model_type": draw.choice(kinds)}
    if draw.random() < 0.5:
        change = {"architectures": draw.choice(([draw.choice(classes)], [], None, "BertModel", [None], [5]))}
    edit(folder / "config.json", lambda content: content.update(change))
    return None


def config_dtype(draw: Draw, folder: Path) -> Meaning | None:
    """Another dtype than the files': they say what they hold."""
    name = draw.choice(("bfloat16", "float16", "float64", "float32"))
    edit(folder / "config.json", lambda content: content.update({draw.choice(("dtype", "torch_dtype")): name}))
    return "harmless"


def config_odd_dtype(draw: Draw, folder: Path) -> Meaning | None:
    value = draw.choice(("float8_e4m3fn", "int4", "torch.float32", "auto", "", 16, None, ["float32"], {"x": "float32"}))
    edit(folder / "config.json", lambda content: content.update({draw.choice(("dtype", "torch_dtype")): value}))
    return None


def config_labels(draw: Draw, folder: Path) -> Meaning | None:
    """Labels of a classifier: reordered, partial, doubled, foreign, of another number."""
    names = draw.choice((["glad", "sad"], ["sad", "glad"], ["LABEL_0", "LABEL_1"], ["sad"], ["sad", "sad"], ["x", "y"],
                         ["glad", "sad", "none"], [], ["Glad", "Sad"]))  # fmt: skip
    keys = draw.choice(([str(i) for i in range(9)], [str(8 - i) for i in range(9)], list("abcdefghi")))
    id2label = dict(zip(keys, names, strict=False))
    change: dict[str, Any] = {"id2label": id2label, "label2id": {name: i for i, name in enumerate(names)}}
    if draw.random() < 0.4:
        change = {"num_labels": draw.choice((0, 1, 2, 3, -1, 10**6, "2", None)), "id2label": None}
    if draw.random() < 0.2:
        change["problem_type"] = draw.choice(("regression", "multi_label_classification", "nope", 5))
    edit(folder / "config.json", lambda content: content.update(change))
    return None


def config_code(draw: Draw, folder: Path) -> Meaning | None:
    """Code that the folder would like to have run; whoever loads it must not."""
    for name in ("modeling_mine.py", "configuration_mine.py", "conftest.py"):
        (folder / name).write_text(CODE)
    auto = dict.fromkeys(
        ("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"), "modeling_mine.Mine"
    )
    edit(
        folder / "config.json",
        lambda content: content.update(auto_map=auto | {"AutoConfig": "configuration_mine.Mine"}),
    )
    if draw.random() < 0.5:
        edit(folder / "config.json", lambda content: content.update(model_type="mine"))
    return None


def config_extras(draw: Draw, folder: Path) -> Meaning | None:
    """Flags that change what loading does."""
    flags: tuple[dict[str, Any], ...] = (
        {"quantization_config": {"quant_method": draw.choice(("bitsandbytes", "gptq", "fp8", "nope")), "bits": 4}},
        {"quantization_config": draw.choice(({}, [], "int8", {"load_in_8bit": True}))},
        {"tie_word_embeddings": draw.choice((True, False, "no", None))},
        {"is_decoder": True}, {"is_encoder_decoder": True}, {"pruned_heads": {"0": [0]}}, {"add_cross_attention": True},
        {"_attn_implementation": "flash_attention_2"}, {"attn_implementation": "nope"}, {"use_cache": "x"},
        {"hidden_act": draw.choice(("nope", 5, "relu", "eval"))}, {"pad_token_id": draw.choice((-1, 10**6, "x", None))},
        {"hidden_dropout_prob": draw.choice((2.0, -1, "x"))}, {"layer_norm_eps": draw.choice((float("nan"), -1, "x"))},
        {"rope_scaling": {"type": "nope"}}, {"transformers_version": "99.0"}, {"torchscript": True},
        {"return_dict": False}, {"output_hidden_states": True}, {"output_attentions": True},
        {"chunk_size_feed_forward": 3},
    )  # fmt: skip
    edit(folder / "config.json", lambda content: content.update(draw.choice(flags)))
    return None


def junk(draw: Draw, path: Path) -> None:
    """Other bytes in a file of JSON."""
    data = path.read_bytes() if path.is_file() else b"{}"
    place = draw.randrange(len(data) + 1)
    other = (b"", b"[]", b"null", b'"x"', b"{}", b"[" * 9000, data[:place], data[:place] + b"\xff" + data[place:],
             data.decode("latin-1").encode("utf-16"), b"\xef\xbb\xbf" + data, b'{"a": NaN}')  # fmt: skip
    path.unlink(missing_ok=True)
    path.write_bytes(draw.choice(other))


def config_junk(draw: Draw, folder: Path) -> Meaning | None:
    if draw.random() < 0.3:
        no_file(draw, folder / "config.json")
    else:
        junk(draw, folder / "config.json")
    return None


CONFIG: dict[str, Mutation] = {
    "config: a key": config_key,
    "config: sizes": config_sizes,
    "config: architecture": config_architecture,
    "config: other dtype": config_dtype,
    "config: odd dtype": config_odd_dtype,
    "config: labels": config_labels,
    "config: code": config_code,
    "config: flags": config_extras,
    "config: junk": config_junk,
}


def padding_side(draw: Draw, folder: Path) -> Meaning | None:
    """Left or right: where attention masks are heeded, it changes no number."""
    side = draw.choice(("left", "right"))
    edit(folder / "tokenizer_config.json", lambda content: content.update(padding_side=side))
    return "harmless"


def tokenizer_key(draw: Draw, folder: Path) -> Meaning | None:
    file = folder / "tokenizer_config.json"
    keys = ("pad_token", "mask_token", "eos_token", "cls_token", "tokenizer_class", "model_max_length", "padding_side",
            "truncation_side", "chat_template", "added_tokens_decoder", "model_input_names", "auto_map")  # fmt: skip
    key = draw.choice(keys)
    if draw.random() < 0.4:
        edit(file, lambda content: content.pop(key, None))
    else:
        classes = ("LlamaTokenizer", "BertTokenizer", "Nope", "PreTrainedTokenizer", "T5Tokenizer")
        names = ["input_ids", "nope"]
        odd = (odd_value(draw), draw.choice(classes), draw.choice((0, 1, 2, 5, -1, 1e30, 10**30)), "[NEW]", names)
        edit(file, lambda content: content.update({key: draw.choice(odd)}))
    return None


def tokenizer_words(draw: Draw, folder: Path) -> Meaning | None:
    """Words that the embedding has no row for, or none for words that are there."""

    def change(content: dict[str, Any]) -> None:
        words = content.get("model", {}).get("vocab", {})
        word = draw.choice(list(words) or ["x"])
        odd = (("good", 10**5), (word, -1), (word, 2**40), ("good", 36), (word, "x"), ("the", 36), (word, None))
        name, value = draw.choice(odd)
        words[name] = value
        if draw.random() < 0.3:
            words.pop(draw.choice(("[UNK]", "[PAD]", "[CLS]", "good")), None)

    edit(folder / "tokenizer.json", change)
    return None


def tokenizer_state(draw: Draw, folder: Path) -> Meaning | None:
    """Padding and truncation that somebody left switched on; callers set their own."""
    side = draw.choice(("Left", "Right"))
    pad = {"strategy": draw.choice(("BatchLongest", {"Fixed": 30})), "direction": side, "pad_to_multiple_of": None,
           "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    cut = {"direction": side, "max_length": draw.choice((2, 512)), "strategy": "LongestFirst", "stride": 0}
    edit(folder / "tokenizer.json", lambda content: content.update(padding=pad, truncation=cut))
    return "harmless"


def tokenizer_files(draw: Draw, folder: Path) -> Meaning | None:
    file = folder / draw.choice(
        ("tokenizer.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    )
    if draw.random() < 0.4:
        no_file(draw, file)
    else:
        junk(draw, file)
    return None


TOKENIZER: dict[str, Mutation] = {
    "tokenizer: padding side": padding_side,
    "tokenizer: a key": tokenizer_key,
    "tokenizer: words": tokenizer_words,
    "tokenizer: state": tokenizer_state,
    "tokenizer: files": tokenizer_files,
}


def spoil_folder(draw: Draw, folder: Path, mutations: dict[str, Mutation]) -> tuple[list[str], Meaning]:
    """Do one to three of these mutations to a folder; their names, and what they mean."""
    names: list[str] = []
    meanings: list[Meaning] = []
    for _ in range(draw.choice((1, 1, 1, 1, 2, 3))):
        name = draw.choice(list(mutations))
        try:
            meanings.append(mutations[name](draw, folder) or "hostile")
        except UNFIT:
            break  # those before have left nothing that this one could change
        names.append(name)
    return names, gravest(meanings) if len(names) == 1 else "hostile"
