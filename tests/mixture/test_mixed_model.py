"""Every row of a batch is the row of its own grafted model: fifteen architectures, dtypes, generation, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graft
from graft.errors import ConfigError, OverlapError, PatchMismatchError
from tests.architectures import KINDS, Kind
from tests.checkpoints import bits_of, make_patch, small_llama
from tests.mixture.mixing import Skill, draw_patch, one_by_one

ROWS: list[Skill] = ["a", None, ["a", "b"], "b"]
IDS = torch.randint(1, 16, (4, 7), generator=torch.Generator().manual_seed(0))
# read by their modules in ways of their own
APART = {"T5ForConditionalGeneration": ["relative_attention_bias"], "BartForConditionalGeneration": ["embed_positions"],
         "MambaForCausalLM": ["dt_proj", "conv1d"]}  # fmt: skip


def inputs_of(kind: Kind) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    if kind.name.startswith("ViT"):
        return {"pixel_values": torch.randn(4, 3, 8, 8, generator=generator)}
    batch: dict[str, Any] = {"input_ids": torch.randint(4, 60, (4, 7), generator=generator)}
    if kind.name.startswith(("T5", "Bart")):
        batch["decoder_input_ids"] = torch.randint(4, 60, (4, 5), generator=generator)
    return batch | ({"use_cache": False} if kind.name.startswith("Mamba") else {})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@torch.no_grad()
def test_fifteen_architectures(kind: Kind) -> None:
    model = kind.build(0)
    batch, leave_out = inputs_of(kind), APART.get(kind.name, [])
    patches = {name: draw_patch(model, seed, 0.05 * seed, leave_out) for seed, name in enumerate("ab", 1)}

    def run() -> torch.Tensor:
        output = model(**batch)
        found: torch.Tensor = output.logits if "logits" in output else output.last_hidden_state
        return found

    before, wanted, base = bits_of(model), one_by_one(model, patches, ROWS, run), run()
    assert (base[0] - wanted[0]).abs().max() > 0.1  # a skill makes a difference here
    with graft.serve_patches(model, patches, on_overlap="last") as mixed:
        with mixed.skills(ROWS):
            found = run()
        with mixed.skills(ROWS, exact=True):
            exact = run()
        assert torch.equal(run(), base)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(exact, wanted, atol=2e-6, rtol=1e-5)
    assert torch.equal(found[1], base[1])
    assert bits_of(model) == before
    assert torch.equal(run(), base)  # no hook is left


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@torch.no_grad()
def test_dtypes(dtype: torch.dtype) -> None:
    model = small_llama(tied=True, dtype=dtype).eval()
    patches = {name: draw_patch(model, seed) for seed, name in enumerate("ab", 1)}
    ids = IDS

    def run() -> torch.Tensor:
        return model(ids).logits  # type: ignore[no-any-return]

    wanted, base = one_by_one(model, patches, ROWS, run), run()
    with graft.serve_patches(model, patches, on_overlap="last") as mixed, mixed.skills(ROWS):
        found = run()
    assert found.dtype == dtype
    step = torch.finfo(dtype).eps * wanted.abs().max().item()
    assert (found - wanted).abs().max().item() < 8 * step
    assert (base[0] - wanted[0]).abs().max().item() > 64 * step or dtype == torch.bfloat16


@settings(derandomize=True, deadline=None, max_examples=15)
@given(rows=st.lists(st.sampled_from([None, "a", "b", "empty", ("b", "a")]), min_size=1, max_size=6), data=st.data())
@torch.no_grad()
def test_any_mixture(rows: list[Skill], data: st.DataObject) -> None:
    model = small_llama(tied=data.draw(st.booleans())).eval()
    patches = {name: draw_patch(model, seed, share=0.1 * seed) for seed, name in enumerate("ab", 1)}
    tensors = {name: weight.detach() for name, weight in model.named_parameters()}
    name = data.draw(st.sampled_from(sorted(tensors)))
    patches["empty"] = make_patch(tensors, {name: {0: float(tensors[name].flatten()[0])}})  # writes what is there
    ids = torch.randint(0, 16, (len(rows), data.draw(st.integers(1, 5))), generator=torch.Generator().manual_seed(1))

    def run() -> torch.Tensor:
        return model(ids).logits  # type: ignore[no-any-return]

    wanted = one_by_one(model, patches, rows, run)
    with graft.serve_patches(model, patches, on_overlap="last") as mixed:
        with mixed.skills(rows):
            torch.testing.assert_close(run(), wanted, atol=1e-5, rtol=1e-4)
        with mixed.skills(rows, exact=True):
            torch.testing.assert_close(run(), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
@pytest.mark.parametrize("side", ["left", "right"])
def test_generation(options: dict[str, Any], side: str) -> None:
    model = small_llama(tied=True).eval()
    patches = {name: draw_patch(model, seed) for seed, name in enumerate("ab", 1)}
    ids, mask = IDS, torch.ones(4, 7, dtype=torch.int64)
    mask[0, :3] = 0
    ids, mask = (ids.flip(1), mask.flip(1)) if side == "right" else (ids, mask)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}

    def run() -> torch.Tensor:
        tokens = model.generate(ids, attention_mask=mask, **settings)
        return tokens.view(4, -1)

    wanted = one_by_one(model, patches, ROWS, run)
    with graft.serve_patches(model, patches, on_overlap="last") as mixed, mixed.skills(ROWS):
        assert torch.equal(run(), wanted)
    assert not torch.equal(run(), wanted)


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "BartForConditionalGeneration"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_generation_beside_an_encoder(name: str, options: dict[str, Any]) -> None:
    """Keys and values of the encoder are computed once, and read from a cache from the second token on."""
    model = next(kind for kind in KINDS if kind.name == name).build(0)
    patches = {name: draw_patch(model, seed, 0.3, APART[model.__class__.__name__]) for seed, name in enumerate("ab", 1)}
    ids = torch.randint(4, 60, (4, 6), generator=torch.Generator().manual_seed(0))
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0, **options}
    settings["decoder_start_token_id"] = 0

    def run() -> torch.Tensor:
        tokens: torch.Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return tokens.view(4, -1)

    wanted = one_by_one(model, patches, ROWS, run)
    assert not torch.equal(run(), wanted)
    with graft.serve_patches(model, patches, on_overlap="last") as mixed:
        with mixed.skills(ROWS):
            assert torch.equal(run(), wanted)
        read = model(input_ids=ids, decoder_input_ids=ids[:, :1], use_cache=True)  # by the base, no row's skill
        more = {"encoder_outputs": (read.encoder_last_hidden_state,), "past_key_values": read.past_key_values}
        with mixed.skills(ROWS), pytest.raises(ConfigError, match="was not called by"):
            model(decoder_input_ids=ids[:, 1:2], **more)


@torch.no_grad()
def test_a_compiled_model() -> None:
    """Graphs that were compiled before a skill came do not go on without it."""
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    patches, inputs = {name: draw_patch(model, seed, 0.2) for seed, name in enumerate("ab", 1)}, torch.randn(4, 6)
    wanted = one_by_one(model, patches, ["a", None, "b", "a"], lambda: model(inputs))
    compiled = torch.compile(model, backend="eager")
    compiled(inputs)
    with graft.serve_patches(model, {"a": patches["a"]}) as mixed:
        with mixed.skills(["a", None, None, "a"]):
            torch.testing.assert_close(compiled(inputs)[0], wanted[0])
        mixed.add("b", patches["b"])
        with mixed.skills(["a", None, "b", "a"]):
            torch.testing.assert_close(compiled(inputs), wanted)


@torch.no_grad()
def test_skills_come_and_go() -> None:
    model = small_llama(tied=False).eval()
    first, second = draw_patch(model, 1), draw_patch(model, 2)
    ids = IDS[:2]
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    with graft.serve_patches(model, {"first": first}) as mixed:
        with mixed.skills(["first", None]):
            alone = model(ids).logits
            mixed.add("second", second)
            assert torch.equal(model(ids).logits, alone)
            with mixed.skills([None, "second"]):
                assert not torch.equal(model(ids).logits, alone)
                with pytest.raises(ConfigError, match="carry the skill 'first'"):
                    mixed.remove("first")  # which the outer rows carry
            assert torch.equal(model(ids).logits, alone)  # the outer rows again
            with pytest.raises(ConfigError, match="carry"):
                mixed.remove("first")
        mixed.remove("first")
        assert mixed.names == ["second"]
        with pytest.raises(ConfigError, match="there is no skill 'first'; there are: second"), mixed.skills(["first"]):
            pass
        mixed.add("first", first)
        with mixed.skills(["first", None]):
            assert torch.equal(model(ids).logits, alone)
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks


def test_refusals() -> None:
    model = small_llama(tied=False).eval()
    patch = draw_patch(model, 1)
    with graft.serve_patches(model, {"a": patch, "b": draw_patch(model, 2)}) as mixed:
        with pytest.raises(ConfigError, match="there is a skill 'a' already"):
            mixed.add("a", patch)
        with pytest.raises(ConfigError, match="needs a name"):
            mixed.add("", patch)
        with pytest.raises(PatchMismatchError):
            mixed.add("other", draw_patch(small_llama(tied=False, seed=5), 3))
        assert mixed.names == ["a", "b"]
        with pytest.raises(OverlapError), mixed.skills([["a", "b"]]):
            pass
        with mixed.skills(["a", "b"]):
            with pytest.raises(ConfigError, match="the batch has 3 rows, but skills were named for 2"):
                model(torch.ones(3, 4, dtype=torch.int64))
            model(torch.ones(2, 4, dtype=torch.int64))  # and goes on
            with pytest.raises(ConfigError, match="called alone"):
                model.model.layers[0].mlp(torch.ones(2, 4, model.config.hidden_size))


def test_a_model_that_was_cast_is_refused() -> None:
    model = small_llama(tied=False).eval()
    mixed = graft.serve_patches(model, {"a": draw_patch(model, 1)})
    model.double()
    with pytest.raises(PatchMismatchError, match="cast, moved or replaced"), mixed.skills(["a"]):
        pass
    with pytest.raises(PatchMismatchError, match="cast, moved or replaced"):
        mixed.close()


def test_a_base_that_changed_is_noticed() -> None:
    model = small_llama(tied=False).eval()
    patch = draw_patch(model, 1)
    mixed = graft.serve_patches(model, {"a": patch})
    mixed.check_base()
    with torch.no_grad():
        model.get_submodule("model.layers.0.mlp.up_proj").weight.add_(1)
    with pytest.raises(PatchMismatchError, match="up_proj"):
        mixed.close()


def test_what_rows_cannot_have_apart_is_refused() -> None:
    t5 = next(kind for kind in KINDS if kind.name.startswith("T5")).build(0)
    name = next(name for name, _ in t5.named_parameters() if "relative_attention_bias" in name)
    tensors = {key: weight.detach() for key, weight in t5.named_parameters()}
    with pytest.raises(PatchMismatchError, match="not called with the tokens of a row"):
        graft.serve_patches(t5, {"a": make_patch(tensors, {name: {0: 5.0}})})
    mamba = next(kind for kind in KINDS if kind.name.startswith("Mamba")).build(0)
    tensors = {key: weight.detach() for key, weight in mamba.named_parameters()}
    place = "backbone.layers.0.mixer.dt_proj.weight"
    with (
        graft.serve_patches(mamba, {"a": make_patch(tensors, {place: {0: 5.0}})}) as mixed,
        pytest.raises(ConfigError, match=r"dt_proj' was not called by MambaMixer"),
        mixed.skills(["a"]),
    ):
        mamba(torch.ones(1, 4, dtype=torch.int64), use_cache=False)


@torch.no_grad()
def test_a_layer_of_remote_code_that_has_a_librarys_name() -> None:
    """Its weight is stored as (out, in), though transformers' Conv1D, of the same name, has it the other way round."""
    linear = type("Conv1D", (torch.nn.Module,), {"nf": 6, "forward": lambda self, x: x @ self.weight.T})

    def build() -> torch.nn.Module:
        torch.manual_seed(0)
        layer = linear()
        layer.weight = torch.nn.Parameter(torch.randn(6, 6))
        return torch.nn.Sequential(layer)

    model, x = build(), torch.randn(4, 3, 6)
    patches = {name: draw_patch(model, seed, 0.3) for seed, name in enumerate("ab", 1)}
    wanted = one_by_one(model, patches, ROWS, lambda: model(x))
    assert (wanted[0] - model(x)[0]).abs().max() > 0.01
    with graft.serve_patches(model, patches, on_overlap="last") as mixed, mixed.skills(ROWS):
        torch.testing.assert_close(model(x), wanted)
