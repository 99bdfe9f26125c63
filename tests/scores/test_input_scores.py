"""Scores by the sizes of inputs, by rank reduction, and in Adam's metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import ConfigError
from graft.scores.activations import InputSums, sum_inputs
from graft.scores.adam_attribution import FLOOR, attribute_by_adam
from graft.scores.gradient_path import GradientPath
from graft.scores.inputs import ScoreInput
from graft.scores.lift import approximate, size_of_principal
from graft.scores.registry import SCORES
from graft.scores.wanda import measure_input_sizes, weigh_by_inputs
from graft.specs.head import HeadSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from tests.architectures import BART, ENCODER, IDS, T5, Kind
from tests.models import word_tokenizer, write_causal

LAYER = "encoder.layer.1.output.dense"
WORDS = "embeddings.word_embeddings.weight"


def scores(method: str, path: GradientPath, **settings: int) -> dict[str, torch.Tensor]:
    table = SCORES[method].load()(ScoreInput(path.pair, tuple(path.weights), path=path, **settings))
    return {name: table[name]() for name in path.weights}


def open_path(base: Path, tuned: Path, task: Task, batch_size: int = 32) -> GradientPath:
    pair = CheckpointPair.open(base, tuned)
    return GradientPath(
        open_head(base, task.spec), pair, pair.base.parameters, task.train_examples()[:20], batch_size=batch_size,
        class_debias=False,
    )  # fmt: skip


def test_inputs_weigh_the_movement_in_any_batch(base: Path, tuned: Path, task: Task) -> None:
    path = open_path(base, tuned, task)
    inputs: list[torch.Tensor] = []
    hook = path.head.model.get_submodule(LAYER).register_forward_pre_hook(lambda _, x: inputs.append(x[0][0]))
    tokens = []
    with path.head.evaluating():
        for example in path.examples:  # one at a time: no padding
            batch = path.head.tokenize([example.texts])
            tokens += batch["input_ids"].flatten().tolist()
            path.head.model(**batch)
    hook.remove()
    sizes = torch.cat(inputs).double().square().mean(0).sqrt().float()
    before, after = path.pair.read(f"{LAYER}.weight")
    found = scores("wanda", path)
    assert torch.allclose(found[f"{LAYER}.weight"], ((after - before).abs() * sizes).flatten(), rtol=1e-4, atol=1e-9)
    shares = torch.bincount(torch.tensor(tokens), minlength=path.pair.base.spec(WORDS).shape[0]) / len(tokens)
    before, after = path.pair.read(WORDS)
    assert torch.allclose(found[WORDS], ((after - before).abs() * shares.sqrt().unsqueeze(1)).flatten())
    bias = path.pair.read_delta(f"{LAYER}.bias")[0].abs()
    assert torch.equal(found[f"{LAYER}.bias"], bias)
    assert float(bias.max()) > 0
    other = scores("wanda", open_path(base, tuned, task, batch_size=7))
    assert all(torch.allclose(found[name], other[name], rtol=1e-4, atol=1e-9) for name in found)


def test_inputs_lie_along_the_axis_that_the_layer_multiplies() -> None:
    values = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    assert weigh_by_inputs(values, torch.tensor([[10.0, 1.0]])).tolist() == [10, 2, 30, 4]
    assert weigh_by_inputs(values, torch.tensor([[10.0], [1.0]])).tolist() == [10, 20, 3, 4]


def test_what_no_token_reaches_has_inputs_of_size_0_and_what_is_no_product_is_refused(
    base: Path, tuned: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert InputSums().mean_square == 0
    path = open_path(base, tuned, task)
    assert sum_inputs(path.head, [WORDS, "nowhere.weight"], path.examples, batch_size=8)[0].keys() == {WORDS}
    monkeypatch.setattr("graft.scores.activations._axis_of", lambda _: None)  # as of a convolution
    with pytest.raises(ConfigError, match="its inputs cannot be measured"):
        scores("wanda", path)


PROMPT = HeadSpec("verbalizer", template="{text} it was {mask}", words=("bad", "good"))
GATE = "model.layers.0.mlp.gate_proj.weight"


def open_causal(base: Path, task: Task) -> GradientPath:
    prompted = dataclasses.replace(task.spec, head=PROMPT)
    examples = task.train_examples()[:6]
    return GradientPath(
        open_head(base, prompted), CheckpointPair.open(base, base), [GATE], examples, class_debias=False
    )


def sizes_alone(head: Head, rows: list[list[int]]) -> torch.Tensor:
    """(width,) root mean squares of what the layer reads of rows of token ids, one at a time."""
    inputs: list[torch.Tensor] = []
    layer = head.model.get_submodule(GATE.removesuffix(".weight"))
    hook = layer.register_forward_pre_hook(lambda _, x: inputs.append(x[0][0]))
    with head.evaluating():
        for ids in rows:
            head.model(**head.pad([ids]))
    hook.remove()
    return torch.cat(inputs).double().square().mean(0).sqrt().float()


def test_texts_are_read_in_the_heads_template_and_without_a_head_alone(tmp_path: Path, task: Task) -> None:
    path = open_causal(write_causal(tmp_path / "base", steps=0), task)
    inputs = ScoreInput(path.pair, (GATE,), path=path)
    texts = [example.texts for example in path.examples]
    prompts = [encoded.ids for encoded in path.head.encode(texts)]
    assert path.head.tokenizer.decode(prompts[0]).endswith("it was")
    bare = [path.head.tokenize([text])["input_ids"][0].tolist() for text in texts]
    expected = {key: sizes_alone(path.head, rows) for key, rows in {"prompts": prompts, "bare": bare}.items()}
    assert not torch.allclose(expected["prompts"], expected["bare"], rtol=1e-2)  # the control
    for head, key in ((path.head, "prompts"), (None, "bare")):
        found = measure_input_sizes(inputs, path.examples, head)[GATE]
        assert torch.allclose(found.flatten(), expected[key], rtol=1e-4)


@pytest.mark.parametrize("method", ["wanda", "mathneuro"])
def test_both_scores_read_what_the_heads_read(
    method: str, tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = open_causal(write_causal(tmp_path / "base", steps=0), task)
    read: list[Head | None] = []

    def measure(_: ScoreInput, texts: Sequence[Example], head: Head | None) -> dict[str, torch.Tensor]:
        read.append(head)
        return {GATE: torch.ones(())}

    for module in ("wanda", "mathneuro"):
        monkeypatch.setattr(f"graft.scores.{module}.measure_input_sizes", measure)
    other = type(path.head).on(path.head, path.head.task)
    SCORES[method].load()(ScoreInput(path.pair, (GATE,), path=path, general_head=other))
    assert read == [path.head, *([other] if method == "mathneuro" else [])]


def test_tied_embeddings_of_a_language_model_are_counted_where_they_embed(tmp_path: Path, task: Task) -> None:
    base = write_causal(tmp_path / "base", steps=0)
    pair = CheckpointPair.open(base, base)
    name = next(name for name in pair.base.parameters if "embed" in name)
    head = open_head(base, task.spec)
    sums, n = sum_inputs(head, [name], task.train_examples()[:5], batch_size=2)
    assert sums[name].axis == 0
    assert float(sums[name].total.sum()) == n == sums[name].n


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_an_approximation_is_the_nearest_of_its_rank(seed: int, rows: int, columns: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator)
    found = approximate(matrix, rank)
    values = torch.linalg.svdvals(matrix)
    assert torch.linalg.matrix_rank(found, rtol=1e-4) == min(rank, rows, columns)
    assert float((matrix - found).square().sum()) == pytest.approx(float(values[rank:].square().sum()), abs=1e-4)


def test_principal_weights_are_what_a_block_shares() -> None:
    matrix = torch.tensor([[2.0, 2, 0], [2, 2, 0], [0, 0, 3]])
    assert torch.allclose(
        size_of_principal(matrix.flatten(), "w", (3, 3)), torch.tensor([2.0, 2, 0, 2, 2, 0, 0, 0, 0]), atol=1e-5
    )
    experts = torch.stack([matrix, 2 * matrix])
    both = size_of_principal(experts.flatten(), "experts.w", (2, 3, 3))
    assert torch.allclose(both[9:], 2 * both[:9], atol=1e-5)  # each a matrix of its own
    for name, shape in (("norm.weight", (4,)), ("experts.up_bias", (2, 2))):
        assert not size_of_principal(torch.ones(4), name, shape).any()
    for kernel in ((3, 3, 1), (3, 1, 3), (3, 1, 1, 3)):  # over texts, and over pictures
        assert torch.allclose(size_of_principal(matrix.flatten(), "conv.weight", kernel), both[:9], atol=1e-5)


@pytest.mark.parametrize(("method", "of"), [("lift", "base"), ("lift-delta", "delta")])
def test_principal_weights_are_of_the_base_or_of_the_movement(method: str, of: str, base: Path, tuned: Path) -> None:
    pair, name = CheckpointPair.open(base, tuned), f"{LAYER}.weight"
    found = SCORES[method].load()(ScoreInput(pair, (name,)))[name]()
    before, after = pair.read(name)
    matrix = before if of == "base" else after - before
    assert torch.equal(found, approximate(matrix, max(1, round(min(matrix.shape) / 32))).abs().flatten())


def test_adams_metric_is_the_gradient_over_the_size_of_examples_gradients(base: Path, tuned: Path, task: Task) -> None:
    found = scores("adam-attribution", path := open_path(base, tuned, task))
    squares, mean = path.squared_gradients_at(0.0), path.gradients_at(0.0)
    name = f"{LAYER}.weight"
    eps = FLOOR * torch.cat(list(squares.values())).double().mean().sqrt()
    delta = path.pair.read_delta(name)[0]
    expected = -delta * mean[name] / (squares[name].sqrt() + eps)
    assert torch.allclose(found[name], expected.float(), rtol=1e-4, atol=1e-9)
    other = scores("adam-attribution", open_path(base, tuned, task, batch_size=7))
    assert torch.allclose(found[name], other[name], rtol=1e-3, atol=1e-5 * float(found[name].abs().max()))
    ratio = found[name].abs() / delta.abs().clamp(min=1e-12)
    assert float(ratio[delta != 0].max()) <= 1 + 1e-3  # a mean is no larger than the root of the mean square
    assert attribute_by_adam(*map(torch.tensor, ([-1.0], [0.0], [0.0])), 1.0).tolist() == [0]


LOOKUPS = {  # what looks up something else than a row a token, and the words
    "OPTForCausalLM": ("model.decoder.embed_positions", "model.decoder.embed_tokens"),  # called with the mask
    "BartForConditionalGeneration": ("model.encoder.embed_positions", "model.encoder.embed_tokens"),  # with the words
    "MPNetModel": ("encoder.relative_attention_bias", "embeddings.word_embeddings"),  # a table of distances
    "T5ForConditionalGeneration": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias", "encoder.embed_tokens"
    ),
}  # fmt: skip
OPT = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 16}
CONFIGS = {
    "OPTForCausalLM": {"vocab_size": 64, "max_position_embeddings": 64, **OPT, **IDS},
    "BartForConditionalGeneration": BART | {"scale_embedding": True},
    "MPNetModel": ENCODER,
    "T5ForConditionalGeneration": T5,
}


@pytest.mark.parametrize("architecture", LOOKUPS)
def test_embeddings_that_look_up_something_else_than_a_row_a_token_are_not_counted(
    architecture: str, tmp_path: Path, task: Task
) -> None:
    Kind(architecture, CONFIGS[architecture]).build(0).save_pretrained(tmp_path)
    word_tokenizer(pad_token="[PAD]", eos_token="[SEP]").save_pretrained(tmp_path)
    head, (name, words) = open_head(tmp_path, task.spec), (f"{path}.weight" for path in LOOKUPS[architecture])
    of_one_length: dict[int, list[Example]] = {}
    for example in task.train_examples():
        of_one_length.setdefault(head.tokenize([example.texts])["input_ids"].shape[1], []).append(example)
    length, examples = next((n, found[:n]) for n, found in of_one_length.items() if len(found) >= n)
    for batch_size in (length, 3):  # a square batch among them, in which a table of distances has the words' shape
        sums, n = sum_inputs(head, [name, words], examples, batch_size=batch_size, as_task=True)
        assert (sums[name].n, sums[name].missed > 0) == (0, True)
        assert (sums[words].n, sums[words].missed) == (n, 0)
    path = GradientPath(head, CheckpointPair.open(tmp_path, tmp_path), [name], examples, class_debias=False)
    with pytest.raises(ConfigError, match=f"'{name}': the sizes of its inputs cannot be measured"):
        scores("wanda", path)
