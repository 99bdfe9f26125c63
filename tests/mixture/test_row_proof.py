"""Rows mix in what is shared, in tokens that lie before rows, and in chosen tokens: refused, never guessed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import graft
from graft.errors import ConfigError, PatchMismatchError
from graft.patch.skill_patch import Patch
from tests.checkpoints import make_patch, small_llama
from tests.mixture.mixing import draw_patch, one_by_one

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.3}
DEBERTA: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "layer_norm"}
DEBERTA |= {"share_att_key": True, "position_biased_input": False, "type_vocab_size": 0}
SWITCH: dict[str, Any] = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
SWITCH |= {"num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
APART = ["a", None, "b", None]


def build(name: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**sizes)).eval()


def patch_of(model: torch.nn.Module, holds: str, seed: int = 1) -> Patch:
    """A patch of what has this in its name."""
    names = [name for name, _ in model.named_parameters() if holds not in name]
    return draw_patch(model, seed, 0.5, names)


class Mixing(torch.nn.Module):
    """Rows before tokens, a linear layer within that may see them in another way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.layer = way, torch.nn.Linear(6, 6)
        self.table = torch.nn.Buffer(torch.randn(8, 6))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor
        if self.way == "tokens first":
            result = self.layer(inputs.transpose(0, 1)).transpose(0, 1)
        elif self.way == "shared":  # by every row
            result = inputs + self.layer(self.table).sum(0)
        elif self.way == "chosen":  # by content
            chosen = inputs[..., 0] > inputs[..., 0].median()
            result = inputs.clone()
            result[chosen] = self.layer(inputs[chosen])
        elif self.way == "flat":
            result = self.layer(inputs.flatten(0, 1)).view(inputs.shape)
        else:
            result = self.layer(inputs)
        return result


@pytest.mark.parametrize("way", ["tokens first", "shared", "chosen", "flat", "rows first"])
@pytest.mark.parametrize("exact", [False, True])
@torch.no_grad()
def test_a_shape_that_fits_is_no_proof(way: str, exact: bool) -> None:
    torch.manual_seed(1)
    model, inputs = Mixing(way), torch.randn(4, 4, 6)
    patches = {name: draw_patch(model, seed, 0.5) for seed, name in enumerate("ab", 1)}
    wanted = one_by_one(model, patches, APART, lambda: model(inputs))
    with graft.serve_patches(model, patches, exact=exact) as mixed:
        if way in ("flat", "rows first"):
            with mixed.skills(APART):
                torch.testing.assert_close(model(inputs), wanted)
            return
        for _ in range(2):  # and not forgotten
            with (
                pytest.raises(ConfigError, match=r"^module 'layer' .*: skills that touch it can be grafted, not mixed"),
                mixed.skills(APART),
            ):
                model(inputs)


@pytest.mark.parametrize(
    ("name", "sizes", "holds"),
    [
        ("DebertaV2Model", SIZES | DEBERTA | {"position_buckets": 6}, "encoder.LayerNorm.weight"),
        ("DebertaV2Model", SIZES | DEBERTA | {"position_buckets": 256}, "encoder.LayerNorm.bias"),
        ("LongformerModel", SIZES | {"attention_window": 4}, "self.query.weight"),
        ("SwitchTransformersForConditionalGeneration", SWITCH, "experts.expert_1.wi"),
    ],
)
def test_a_skill_that_rows_cannot_have_apart_is_refused_when_it_is_added(
    name: str, sizes: dict[str, Any], holds: str
) -> None:
    model = build(name, **sizes)
    ids = torch.full((2, 4), 5)
    batch = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    other = "final_layer_norm" if model.config.is_encoder_decoder else "attention.output.dense.weight"
    with graft.serve_patches(model, {"other": patch_of(model, other)}) as mixed:
        with pytest.raises(PatchMismatchError, match=r"^module .*: skills that touch it can be grafted, not mixed"):
            mixed.add("a", patch_of(model, holds))
        assert mixed.names == ["other"]
        with mixed.skills(["other", None]):
            model(**batch)


@torch.no_grad()
def test_pictures_beside_texts() -> None:
    """A row may have any number of them, so that as many pictures as rows say nothing."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = transformers.LlamaConfig(**SIZES)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=63, image_token_id=63)
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    ids, pictures = torch.randint(4, 60, (2, 12)), torch.randn(2, 3, 8, 8)
    ids[0, 1:9] = 63  # two pictures, and none in the other row
    patches = {
        "eye": patch_of(model, "vision_tower.encoder.layers.0.mlp.fc1.weight"),
        "words": patch_of(model, "up_proj"),
    }

    def run() -> torch.Tensor:
        found: torch.Tensor = model(input_ids=ids, pixel_values=pictures).logits
        return found

    wanted = one_by_one(model, patches, ["words", None], run)
    seen = one_by_one(model, patches, ["eye", "eye"], run)
    with graft.serve_patches(model, patches) as mixed:
        with mixed.skills(["words", None]):
            torch.testing.assert_close(run(), wanted, atol=1e-5, rtol=1e-4)
        with mixed.skills(["eye", None]), pytest.raises(ConfigError, match=r"fc1' could not be seen to keep the rows"):
            run()
        with mixed.skills(["eye", "eye"]):
            torch.testing.assert_close(run(), seen, atol=1e-5, rtol=1e-4)


def test_a_proof_leaves_no_trace_and_costs_no_step() -> None:
    model = small_llama(tied=False).train()
    model.model.layers[0].eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    calls: list[int] = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    patches = {name: draw_patch(model, seed) for seed, name in enumerate("ab", 1)}
    with graft.serve_patches(model, patches) as mixed:
        assert modes == [module.training for module in model.modules()]
        assert torch.equal(state, torch.get_rng_state())
        assert 0 < len(calls) <= 4
        calls.clear()
        model.eval()
        with mixed.skills(["a", None, "b"]):
            model.generate(torch.full((3, 4), 5), max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0)
        assert len(calls) == 5
    hook.remove()


@torch.no_grad()
def test_rows_of_one_skill_need_no_proof() -> None:
    model, inputs = Mixing("shared"), torch.randn(2, 4, 6)
    tensors = {name: value.detach() for name, value in model.named_parameters()}
    patches = {"a": make_patch(tensors, {"layer.bias": {0: 9.0}})}
    wanted = one_by_one(model, patches, ["a", "a"], lambda: model(inputs))
    with graft.serve_patches(model, patches) as mixed, mixed.skills(["a", "a"]):
        torch.testing.assert_close(model(inputs), wanted)
