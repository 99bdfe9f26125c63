"""The tokenizer of a GGUF file with byte-level BPE, as the files of Hugging Face's tokenizers and transformers.

The file lists tokens, merges and the name of what is done before merging. For "smollm" that is: each digit by itself,
then the pattern of GPT-2 (llama.cpp has the same two steps, and the model's published tokenizer.json as well).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONTROL = 3  # the kind of tokens that are never met in text
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_STEPS = {"smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL]}


def compose_tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return tokenizer.json.

    Raises:
        KeyError: the file's tokenizer is of another kind than those known here.
    """
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    steps = _STEPS[metadata["tokenizer.ggml.pre"]]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(number, token)
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == _CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {**_BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def _added(number: int, token: str) -> dict[str, Any]:
    rules = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **rules, "special": True}


def compose_tokenizer_config(metadata: Mapping[str, Any], max_length: int) -> dict[str, Any]:
    """Return tokenizer_config.json; `max_length` is the number of tokens that the model takes."""
    tokens = metadata["tokenizer.ggml.tokens"]
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    special = {f"{ours}_token": tokens[metadata[f"tokenizer.ggml.{theirs}_token_id"]] for ours, theirs in names.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        **special,
    }
