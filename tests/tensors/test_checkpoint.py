from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.errors import CheckpointError
from graft.files.tensor_spec import TensorSpec
from graft.files.weight_index import INDEX, SINGLE
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import (
    bits_of,
    equal_tensors,
    sample_tensors,
    save_model,
    small_bert,
    small_classifier,
    small_llama,
    write_index,
    write_sharded,
    write_single,
)


def read_all(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: checkpoint.read(name) for name in checkpoint.names}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_single_file_and_shards_hold_the_same(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = sample_tensors(dtype=dtype) | {"scalar": torch.tensor(1.0)}
    single = Checkpoint.open(write_single(tmp_path / "single", tensors))
    sharded = Checkpoint.open(write_sharded(tmp_path / "sharded", tensors, n_shards=3))
    file = Checkpoint.open(tmp_path / "single" / SINGLE)
    for checkpoint in (single, sharded, file):
        assert checkpoint.names == tuple(sorted(tensors))
        assert equal_tensors(read_all(checkpoint), tensors)
        assert checkpoint.n_parameters == sum(tensor.numel() for tensor in tensors.values())
        assert checkpoint.spec("scalar") == TensorSpec("F32", ())
    assert len(set(sharded.files.values())) == 3
    assert set(single.files.values()) == set(file.files.values()) == {tmp_path / "single" / SINGLE}


def test_the_index_alone_says_what_lies_where(tmp_path: Path) -> None:
    tensors = sample_tensors()
    folder = write_sharded(tmp_path / "base", tensors)
    write_single(tmp_path / "stale", {"head.w": torch.zeros(2, 5), "zebra": torch.zeros(1)})
    (tmp_path / "stale" / SINGLE).rename(folder / "model-00003-of-00003.safetensors")
    assert equal_tensors(read_all(Checkpoint.open(folder)), tensors)


def shard_map(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / INDEX).read_text())["weight_map"])


def test_an_index_that_lies_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "base", sample_tensors())
    shards = shard_map(folder)
    write_index(folder, {**shards, "zebra": shards["head.w"]})
    with pytest.raises(CheckpointError, match=r"promises 'zebra', which is not in it"):
        Checkpoint.open(folder)
    write_index(folder, shards)
    assert Checkpoint.open(folder).names == tuple(sorted(shards))
    (folder / shards["head.w"]).unlink()
    with pytest.raises(CheckpointError, match=rf"{shards['head.w']}: cannot be read \(No such file"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/etc/secret.safetensors", "sub/x.safetensors", "..", "x.bin", "", 7, None, ["x"]],
)
def test_an_index_must_not_reach_out_of_its_folder(shard: object, tmp_path: Path) -> None:
    write_single(tmp_path / "other", sample_tensors())
    (tmp_path / "other" / SINGLE).rename(tmp_path / "secret.safetensors")
    folder = write_sharded(tmp_path / "base", sample_tensors())
    write_index(folder, {**shard_map(folder), "head.w": shard})
    with pytest.raises(CheckpointError, match=r"'head\.w' lies in .* not a file name of a shard"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000, "\0", "3"])
def test_a_broken_index_is_refused(text: str, tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "base", sample_tensors())
    (folder / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=r"not a valid index|lists no tensors"):
        Checkpoint.open(folder)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        Checkpoint.open(tmp_path / "zebra")
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors nor"):
        Checkpoint.open(tmp_path)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        Checkpoint.open(write_single(tmp_path / "empty", {}))
    file = write_single(tmp_path / "base", sample_tensors()) / SINGLE
    data = file.read_bytes()
    for length in (0, 7, 8, 100, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"cut short|cannot be read"):
            Checkpoint.open(file.parent)


@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_damaged_header_is_refused_or_still_describes_the_file(position: float, flip: int, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    if not folder.exists():
        write_single(folder, sample_tensors())
        (folder / SINGLE).rename(tmp_path / "good")
    data = bytearray((tmp_path / "good").read_bytes())
    data[int(position * (8 + int.from_bytes(data[:8], "little")))] ^= flip
    (folder / SINGLE).write_bytes(data)
    try:
        checkpoint = Checkpoint.open(folder)
    except CheckpointError:
        return
    assert all(checkpoint.spec(name).numel >= 0 for name in checkpoint.names)


@pytest.mark.parametrize("declared", [{"quant_method": "gptq"}, {"quant_method": "bitsandbytes"}, {}])
def test_a_quantized_checkpoint_is_refused(declared: dict[str, str], tmp_path: Path) -> None:
    config = {"model_type": "zebra", "quantization_config": declared}
    folder = write_single(tmp_path / "base", sample_tensors(), config)
    with pytest.raises(CheckpointError, match=rf"quantized \({declared.get('quant_method', 'unknown')}\)"):
        Checkpoint.open(folder)
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": None}))
    assert Checkpoint.open(folder).names


@pytest.mark.parametrize("text", ["junk", "[]", "[" * 10**5, '{"model_type": "zebra"}'])
def test_a_config_that_tells_nothing_leaves_the_names_as_they_stand(text: str, tmp_path: Path) -> None:
    folder = write_single(tmp_path / "base", sample_tensors())
    (folder / "config.json").write_text(text)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.parameters == checkpoint.names


@pytest.mark.parametrize("wrong", [{"hidden_size": "x"}, {"hidden_size": -4}, {"num_attention_heads": 0}])
def test_a_config_that_no_model_can_be_built_from_does_neither(wrong: dict[str, Any], tmp_path: Path) -> None:
    folder = write_single(tmp_path / "base", sample_tensors(), {"model_type": "llama", **wrong})
    assert Checkpoint.open(folder).architecture is None
    assert Checkpoint.open(folder).tied == ()


def test_tied_weights_count_once_whether_listed_once_or_twice(tmp_path: Path) -> None:
    tied, untied = small_llama(tied=True), small_llama(tied=False)
    once = Checkpoint.open(save_model(tied, tmp_path / "once"))
    config = json.loads((tmp_path / "once" / "config.json").read_text())
    listed = read_all(once) | {"lm_head.weight": tied.lm_head.weight.detach().clone()}
    twice = Checkpoint.open(write_single(tmp_path / "twice", listed, config))
    apart = Checkpoint.open(save_model(untied, tmp_path / "apart"))
    n = sum(parameter.numel() for parameter in tied.parameters())
    assert once.n_parameters == twice.n_parameters == n
    assert apart.n_parameters == n + tied.lm_head.weight.numel()
    assert once.tied == twice.tied == (frozenset({"lm_head.weight", "model.embed_tokens.weight"}),)
    assert (once.aliases, twice.aliases) == (frozenset(), frozenset({"model.embed_tokens.weight"}))
    assert (apart.tied, apart.aliases) == ((), frozenset())


def test_tied_names_with_different_values_are_refused(tmp_path: Path) -> None:
    model = small_llama(tied=True)
    once = Checkpoint.open(save_model(model, tmp_path / "once"))
    listed = read_all(once) | {"lm_head.weight": model.lm_head.weight.detach() + 1}
    config = json.loads((tmp_path / "once" / "config.json").read_text())
    checkpoint = Checkpoint.open(write_single(tmp_path / "twice", listed, config))
    with pytest.raises(
        CheckpointError, match=r"'lm_head\.weight' and 'model\.embed_tokens\.weight' are tied but differ"
    ):
        checkpoint.n_parameters  # noqa: B018


def test_buffers_are_not_counted(tmp_path: Path) -> None:
    extra = {
        "bn.running_mean": torch.zeros(4),
        "bn.num_batches_tracked": torch.tensor(3),
        "layers.0.rotary.inv_freq": torch.zeros(2),
        "steps": torch.zeros(5, dtype=torch.int32),
        "seen": torch.zeros(6, dtype=torch.bool),
    }
    checkpoint = Checkpoint.open(write_single(tmp_path / "base", sample_tensors() | extra))
    assert checkpoint.buffers == extra.keys()
    assert checkpoint.parameters == tuple(sorted(sample_tensors()))
    assert checkpoint.n_parameters == sum(tensor.numel() for tensor in sample_tensors().values())


def test_an_architecture_is_read_without_weights(tmp_path: Path) -> None:
    for model, prefix in ((small_bert(), "bert"), (small_classifier(), "bert"), (small_llama(tied=True), "model")):
        folder = save_model(model, tmp_path / type(model).__name__)
        checkpoint = Checkpoint.open(folder)
        assert checkpoint.architecture is not None
        assert checkpoint.architecture.name_map.prefix == prefix
        assert checkpoint.n_parameters == sum(parameter.numel() for parameter in model.parameters())
        assert set(checkpoint.names) <= bits_of(model).keys()
        assert Checkpoint.open(folder / SINGLE).architecture is None


def test_older_names_are_renamed_as_transformers_does_on_loading(tmp_path: Path) -> None:
    architecture = Checkpoint.open(save_model(small_bert(), tmp_path / "base")).architecture
    assert architecture is not None
    assert (
        architecture.name_map.rename("encoder.layer.0.output.LayerNorm.gamma")
        == "encoder.layer.0.output.LayerNorm.weight"
    )
    assert architecture.name_map.rename("encoder.layer.0.output.dense.weight") == "encoder.layer.0.output.dense.weight"
