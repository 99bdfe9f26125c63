"""The folder that stands in for a model's has one tokenizer, an adapter's own or the base's, never parts of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from graft.sources.made_checkpoint import link_tokenizer, make_folder
from tests.chat_models import byte_tokenizer

OWN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_inline(folder: Path) -> None:
    """Put a template into the config, where transformers had it before it had a file of its own."""
    template, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": template.read_text()}))
    template.unlink()


@pytest.mark.parametrize("brings", ["all", "nothing", "a template"])
def test_of_an_adapter_and_its_base_one_gives_the_tokenizer(brings: str, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    adapter.mkdir()
    byte_tokenizer().save_pretrained(base)
    (base / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|im_start|>"}))
    (base / "generation_config.json").write_text("{}")
    if brings == "all":
        byte_tokenizer(OWN, eos="<|endoftext|>").save_pretrained(adapter)
        write_inline(adapter)
    elif brings == "a template":
        (adapter / "chat_template.jinja").write_text(OWN)
    merged = make_folder("merged", {"model_type": "llama"})
    for source in (adapter, base):
        link_tokenizer(source, merged)
    assert (merged / "generation_config.json").exists()
    assert (merged / "special_tokens_map.json").exists() is (brings != "all")
    found, wanted = (AutoTokenizer.from_pretrained(folder) for folder in (merged, adapter if brings == "all" else base))
    assert found.special_tokens_map == wanted.special_tokens_map
    assert found.chat_template == (wanted.chat_template if brings == "nothing" else OWN)
