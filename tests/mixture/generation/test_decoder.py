"""Which models generate in a batch with rows of different lengths, and which say why they do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

import graft
from graft.errors import ConfigError
from graft.mixture.generation.continuous_batch import ContinuousBatch
from graft.mixture.generation.prefix_cache import PrefixCache
from graft.mixture.generation.request import GenerationRequest
from tests.architectures import KINDS
from tests.mixture.generation.models import run_all

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}

SIDES: dict[str, Any] = {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 24}
SIDES |= {"init_std": 0.4, "is_decoder": True, "is_encoder_decoder": False}

BESIDE = "reads a row in another way beside a longer one"


def build(name: str, **more: Any) -> Any:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**(SIZES | more))).eval()


@pytest.mark.parametrize(
    ("model", "fact"),
    [
        (lambda: build("MistralForCausalLM", sliding_window=4), "do not keep all tokens"),
        (lambda: build("BertModel"), "does not generate"),
        (lambda: build("BertLMHeadModel"), "reads tokens in both directions"),
        (lambda: next(kind for kind in KINDS if kind.name == "MambaForCausalLM").build(0), "states other than keys"),
        (lambda: next(kind for kind in KINDS if kind.name.startswith("T5")).build(0), "an encoder beside its decoder"),
        (lambda: torch.nn.Linear(2, 2), "does not generate"),
        (lambda: build("MvpForCausalLM", **SIDES), BESIDE),
        (lambda: build("TrOCRForCausalLM", **SIDES), BESIDE),
        (
            lambda: build("RoFormerForCausalLM", is_decoder=True, initializer_range=0.4),
            BESIDE,
        ),
        (lambda: build("OpenAIGPTLMHeadModel", n_embd=16, n_layer=2, n_head=2), "keeps no keys and values"),
        (
            lambda: build(
                "LlamaForCausalLM", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
            ),
            "scales positions by the longest row",
        ),
    ],
)
def test_a_model_that_cannot_says_so_in_a_line(model: Any, fact: str) -> None:
    with graft.serve_patches(model()) as mixed:
        for make in (ContinuousBatch, PrefixCache):
            with pytest.raises(
                ConfigError, match=rf"^\w+ .*{fact}.*: its skills can be grafted and generate one by one$"
            ):
                make(mixed)


DECODERS = [
    kind
    for kind in KINDS
    if (kind.name.endswith("ForCausalLM") and kind.name != "MambaForCausalLM") or kind.name == "GPT2LMHeadModel"
]


@pytest.mark.parametrize("kind", DECODERS, ids=lambda kind: kind.name)
def test_what_a_row_generates_beside_others_is_what_it_generates_alone(kind: Any) -> None:
    model = kind.build(0)
    texts = {"a": (5, 6, 7, 8), "b": (9,), "c": (10, 11, 12, 13, 14, 15, 16)}

    def alone(text: tuple[int, ...]) -> list[int]:
        ids = torch.tensor([text])
        more: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
        generated = model.generate(ids, attention_mask=torch.ones_like(ids), **more)
        new: list[int] = generated[0, len(text) :].tolist()
        return new

    with graft.serve_patches(model) as mixed:
        prefixes = PrefixCache(mixed)
        prefixes.add((10, 11, 12))
        assert prefixes.first_layer(None) == 2
        batch = ContinuousBatch(mixed, prefixes=prefixes)
        found = run_all(batch, [GenerationRequest(name, text, None, 8) for name, text in texts.items()])
    assert found == {name: alone(text) for name, text in texts.items()}


@pytest.mark.parametrize("kind", DECODERS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_reason(kind: Any, dtype: torch.dtype) -> None:
    if kind.name.startswith("Mixtral"):
        pytest.skip("a CPU's products of packed experts want sizes that are larger")
    model = kind.build(0).to(dtype).train()
    state = torch.get_rng_state()
    with graft.serve_patches(model) as mixed:
        ContinuousBatch(mixed)
    assert all(module.training for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_a_model_in_training_mode_does_not_generate() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).train()
    with graft.serve_patches(model) as mixed:
        batch = ContinuousBatch(mixed)
        batch.join([GenerationRequest(0, (1,))])
        with pytest.raises(ConfigError, match="training mode"):
            batch.step()


def test_positions_count_from_past_that_of_the_padding_where_a_model_has_one() -> None:
    """As RoBERTa's: `generate` of transformers counts from 0, which the model does nowhere else."""
    model = build("RobertaForCausalLM", is_decoder=True, initializer_range=0.4, pad_token_id=1)
    text, wanted = (5, 6, 7, 8), []
    with torch.no_grad():
        for _ in range(6):
            wanted.append(int(model(torch.tensor([[*text, *wanted]]), use_cache=False).logits[0, -1].argmax()))
    with graft.serve_patches(model) as mixed:
        batch = ContinuousBatch(mixed)
        found = run_all(batch, [GenerationRequest("a", text, None, 6), GenerationRequest("b", (9,), None, 6)])
        with pytest.raises(ConfigError, match="more than the 62 that the model reads"):
            batch.check(GenerationRequest("c", text, None, 59))
    assert found["a"] == wanted
