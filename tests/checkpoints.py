"""Tiny checkpoints, models and patches for the tests: plain functions, every value from a seed."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from graft.files.location import locate
from graft.patch.mask import Mask
from graft.patch.provenance import BaseIdentity, Provenance
from graft.patch.skill_patch import Patch, cut_patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import as_bits, spec_of, take, to_bytes
from graft.tensors.pair import CheckpointPair
from graft.tensors.prints import digest_of, print_of

Tensors = dict[str, torch.Tensor]


def sample_tensors(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensors:
    """Two numbered layers, an embedding and a head, as any small model has them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"embed.weight": (7, 4), "layers.0.w": (6, 5), "layers.1.w": (6, 5), "layers.1.b": (5,), "head.w": (2, 5)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def changed_entries(before: str | Path, after: Path) -> Tensors:
    """Name of each of a model's parameters -> (n,) bool, which entries do not hold the same bits in another one."""
    first, second = (Checkpoint.open(locate(model).path) for model in (before, after))
    return {name: (as_bits(first.read(name)) != as_bits(second.read(name))).flatten() for name in first.parameters}


def count(flags: Tensors) -> int:
    """How many entries are true."""
    return sum(int(tensor.sum()) for tensor in flags.values())


def model_of(tensors: Tensors) -> torch.nn.Module:
    """A model of any tensors: floating ones as parameters, others as buffers, modules by the dots in their names."""
    model = torch.nn.Module()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        place = model
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, torch.nn.Module())
            place = place.get_submodule(part)
        if tensor.is_floating_point():
            place.register_parameter(last, torch.nn.Parameter(tensor))
        else:
            place.register_buffer(last, tensor)
    return model


def write_single(folder: Path, tensors: Tensors, config: Mapping[str, Any] | None = None) -> Path:
    """A folder with one model.safetensors, and a config.json where one is given."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_sharded(folder: Path, tensors: Tensors, n_shards: int = 2) -> Path:
    """A folder of shards with an index; tensors are dealt out in turn."""
    folder.mkdir(parents=True)
    names = [f"model-{i + 1:05}-of-{n_shards:05}.safetensors" for i in range(n_shards)]
    shard_of = {name: names[i % n_shards] for i, name in enumerate(tensors)}
    for shard in names:
        held = {name: tensor for name, tensor in tensors.items() if shard_of[name] == shard}
        save_file(held, folder / shard, metadata={"format": "pt"})
    write_index(folder, shard_of)
    return folder


def write_index(folder: Path, shard_of: Mapping[str, object]) -> None:
    index = {"metadata": {"total_size": 0}, "weight_map": shard_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def small_llama(*, tied: bool, seed: int = 0, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=16, num_hidden_layers=2, tie_word_embeddings=tied, dtype=dtype, **sizes)
    return LlamaForCausalLM(config).to(dtype)


def bert_config(**more: Any) -> BertConfig:
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_hidden_layers": 2}
    return BertConfig(vocab_size=16, max_position_embeddings=10, **sizes, **more)


def small_bert(seed: int = 0) -> BertModel:
    torch.manual_seed(seed)
    return BertModel(bert_config())


def small_classifier(encoder: BertModel | None = None, n_labels: int = 3) -> BertForSequenceClassification:
    """A classifier, on the weights of an encoder where one is given."""
    torch.manual_seed(9)
    model = BertForSequenceClassification(bert_config(num_labels=n_labels))
    if encoder is not None:
        model.bert.load_state_dict(encoder.state_dict())
    return model


def save_model(model: PreTrainedModel, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def nudged(model: Any, share: float = 0.2, seed: int = 1) -> Any:
    """A copy of a model in which about that share of every parameter's entries moved."""
    generator = torch.Generator().manual_seed(seed)
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in tuned.parameters():
            moved = torch.rand(parameter.shape, generator=generator) < share
            parameter[moved] += 0.5
    return tuned


def changed_mask(pair: CheckpointPair) -> Mask:
    changed = {name: pair.read_delta(name)[1].nonzero().flatten().numpy() for name in pair.names}
    return Mask.of({name: pair.base.spec(name) for name in pair.names}, changed)


def cut(base: Path, tuned: Path, *, with_base_values: bool = False, task: Mapping[str, Any] | None = None) -> Patch:
    """The patch of every changed entry of two checkpoints."""
    pair = CheckpointPair.open(base, tuned)
    identity = BaseIdentity(name=base.name, digest=digest_of(pair.base), n_parameters=pair.base.n_parameters)
    tied = tuple(tuple(sorted(group)) for group in pair.base.tied)
    provenance = Provenance(base=identity, tied=tied, scope="all", n_maskable=pair.base.n_parameters, task=task)
    return cut_patch(pair, changed_mask(pair), provenance, with_base_values=with_base_values)


def make_patch(
    base: Mapping[str, torch.Tensor],
    changes: Mapping[str, Mapping[int, float]],
    *,
    with_base_values: bool = False,
    provenance: Provenance | None = None,
    dense: Mapping[str, torch.Tensor] | None = None,
) -> Patch:
    """A patch in memory: tensor name -> {flat index: new value}."""
    mask = Mask.of({name: spec_of(base[name]) for name in changes}, {name: list(changes[name]) for name in changes})
    values = {n: torch.tensor([changes[n][int(i)] for i in mask[n]], dtype=base[n].dtype) for n in mask}
    before = {name: take(base[name], torch.tensor(mask[name])).cpu() for name in mask}
    prints = {name: print_of(before[name]) for name in mask}
    stored = before if with_base_values else None
    return Patch(mask, values, prints, provenance or Provenance(), stored, dense or {})


def bits_of(model: torch.nn.Module | Tensors) -> dict[str, bytes]:
    """Every parameter and buffer as bytes, tied ones under each of their names."""
    if isinstance(model, dict):
        return {name: to_bytes(tensor) for name, tensor in model.items()}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: to_bytes(tensor) for name, tensor in named}


def equal_tensors(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    """The same names, shapes, dtypes and bits."""
    return left.keys() == right.keys() and all(
        spec_of(left[name]) == spec_of(right[name]) and torch.equal(as_bits(left[name]), as_bits(right[name]))
        for name in left
    )


def equal_patches(left: Patch, right: Patch) -> bool:
    """The same mask, bits, prints and origin."""
    return (
        left.mask == right.mask
        and left.mask.specs == right.mask.specs
        and equal_tensors(left.values, right.values)
        and equal_tensors(left.base_values or {}, right.base_values or {})
        and (left.base_values is None) == (right.base_values is None)
        and equal_tensors(left.dense, right.dense)
        and left.base_prints == right.base_prints
        and left.provenance == right.provenance
    )


def files_below(folder: Path, leave_out: Iterable[str] = ()) -> Sequence[str]:
    """Relative paths of all files, hidden ones included."""
    found = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return sorted(set(found) - set(leave_out))


def sample_patch() -> Patch:
    """A patch with every code, several dtypes, a scalar, -0.0, whole tensors and stored base values."""
    base = {
        "all.f16": torch.arange(6).reshape(2, 3).to(torch.float16),
        "bits.bf16": torch.arange(40).reshape(5, 8).to(torch.bfloat16),
        "gaps.f32": torch.arange(70_000, dtype=torch.float32).reshape(7, 10_000),
        "scalar.f32": torch.tensor(1.0),
        "steps.i64": torch.tensor([1, 2**60]),
        "ß.f64": torch.linspace(0, 1, 30, dtype=torch.float64),
    }
    changes: dict[str, dict[int, float]] = {
        "all.f16": {i: i + 0.5 for i in range(6)},
        "bits.bf16": {i: i - 0.5 for i in range(0, 40, 2)},
        "gaps.f32": {0: -0.0, 5: 1e-40, 66_000: 3.0, 69_999: -3.4e38},
        "scalar.f32": {0: -0.0},
        "steps.i64": {1: 2**62 + 1},
        "ß.f64": {7: 1e300, 29: -0.0},
    }
    dense = {"classifier.bias": torch.tensor([-0.0, 2.0]), "temperature": torch.tensor(7, dtype=torch.int32)}
    provenance = Provenance(
        base=BaseIdentity(name="base", digest="0" * 64, n_parameters=70_078),
        tied=(("all.f16", "again.f16"),),
        scope="all",
        n_maskable=70_078,
        method={"name": "by hand", "steps": [1, 2.5]},
        task={"name": "toy", "labels": ["a", "ß"]},
        tool="graft test",
    )
    return make_patch(base, changes, with_base_values=True, provenance=provenance, dense=dense)


def split_file(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """A patch file's header without its metadata, the JSON of its one key, and the tensors' bytes."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header.pop("__metadata__")["skill_patch"]), data[8 + length :]


def join_file(header: Mapping[str, Any], meta: Mapping[str, Any] | str, payload: bytes, *, seal: bool = True) -> bytes:
    """The file of these parts, however wrong they are; its hashes agree where it holds any, unless `seal` is off."""
    if seal and not isinstance(meta, str) and "content" in meta:
        meta = {**meta, **reseal(header, meta, payload)}
    text = meta if isinstance(meta, str) else json.dumps(meta)
    head = json.dumps({"__metadata__": {"skill_patch": text}, **header}).encode()
    return len(head).to_bytes(8, "little") + head + payload


def reseal(header: Mapping[str, Any], meta: Mapping[str, Any], payload: bytes) -> dict[str, Any]:
    """The hashes `content` and `table` of a file's parts, by hashlib alone."""
    content = {name: _hash_of(_bytes_of(entry, payload)) for name, entry in header.items()}
    table = json.dumps(meta.get("tensors"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {"content": content, "table": _hash_of(table.encode())}


def _bytes_of(entry: Any, payload: bytes) -> bytes:
    """What lies at an entry's offsets; nothing where a test has made them none."""
    places = entry.get("data_offsets") if isinstance(entry, dict) else None
    sound = isinstance(places, list) and len(places) == 2 and all(type(place) is int for place in places)
    return payload[max(places[0], 0) : max(places[1], 0)] if sound else b""


def _hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
