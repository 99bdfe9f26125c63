"""Weights of a model folder that are wrong: tensors, files, the index over them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.hostile.data_files import no_file
from tests.hostile.values import Draw, Meaning

Tensors = dict[str, torch.Tensor]
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
READ = (
    "query",
    "key",
    "value",
    "q_proj",
    "down_proj",
    "mlp",
    "dense",
    "word_embeddings",
    "Wqkv",
    "c_attn",
    "LayerNorm",
)


def tensors_of(folder: Path) -> Tensors:
    return load_file(folder / FILE) if (folder / FILE).is_file() else {}


def write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], name: str = FILE) -> None:
    own = {key: tensor.contiguous().clone() for key, tensor in tensors.items()}
    (folder / name).unlink(missing_ok=True)
    save_file(own, folder / name, metadata={"format": "pt"})


def write_shards(folder: Path, tensors: Tensors, n: int = 3) -> dict[str, str]:
    """A folder's one file as shards with an index; returns the index's map."""
    names = [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
    shard_of = {name: names[i % n] for i, name in enumerate(tensors)}
    for shard in names:
        write_tensors(folder, {name: tensor for name, tensor in tensors.items() if shard_of[name] == shard}, shard)
    (folder / FILE).unlink(missing_ok=True)
    write_index(folder, shard_of)
    return shard_of


def write_index(folder: Path, shard_of: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": shard_of}))


def a_read_one(draw: Draw, tensors: Tensors) -> str:
    """A tensor of a layer, which no model can do without."""
    held = [name for name in tensors if any(part in name for part in READ) and "pooler" not in name and "layer" in name]
    return draw.choice(held or list(tensors))


def missing(draw: Draw, folder: Path) -> Meaning | None:
    tensors = tensors_of(folder)
    for _ in range(draw.choice((1, 1, 3))):
        tensors.pop(a_read_one(draw, tensors))
    write_tensors(folder, tensors)
    return "wrong"


def renamed(draw: Draw, folder: Path) -> Meaning | None:
    tensors = tensors_of(folder)
    old = a_read_one(draw, tensors)
    changed = (old.replace(".", "_"), old + "2", old.replace("layer", "block"), old.replace(".0.", ".7."), "")
    new = draw.choice([name for name in changed if name != old and name not in tensors])
    write_tensors(folder, {new if name == old else name: tensor for name, tensor in tensors.items()})
    return "wrong"


def prefixed(draw: Draw, folder: Path) -> Meaning | None:
    """All tensors under a wrapper's prefix."""
    prefix = draw.choice(("module.", "model.", "bert.", "base_model.model.", "_fsdp_wrapped_module.", "x."))
    write_tensors(folder, {f"{prefix}{name}": tensor for name, tensor in tensors_of(folder).items()})
    return None


def extra(draw: Draw, folder: Path) -> Meaning | None:
    tensors = tensors_of(folder)
    like = a_read_one(draw, tensors)
    new = draw.choice(
        (f"{like}_extra", like.replace("weight", "bias2"), like.replace(".0.", ".9."), "stray", "a" * 500)
    )
    write_tensors(folder, tensors | {new: draw.choice((tensors[like], torch.ones(3), torch.zeros(0)))})
    return None


def other_dtype(draw: Draw, folder: Path) -> Meaning | None:
    """One tensor, or all, in another dtype."""
    dtype = draw.choice(
        (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool, torch.uint8)
    )
    tensors = tensors_of(folder)
    one = a_read_one(draw, tensors) if draw.random() < 0.6 else None
    write_tensors(folder, {name: w.to(dtype) if one in (None, name) else w for name, w in tensors.items()})
    return None


def other_shape(draw: Draw, folder: Path) -> Meaning | None:
    tensors = tensors_of(folder)
    name = a_read_one(draw, tensors)
    tensor = tensors[name]
    shapes = [tensor[:-1], tensor.reshape(-1), tensor.unsqueeze(0), torch.cat([tensor, tensor]), tensor[:0]]
    tensors[name] = draw.choice([*shapes, torch.tensor(1.0)])
    write_tensors(folder, tensors)
    return None if tensors[name].shape == tensor.shape or tensor.dim() == 1 else "wrong"


def not_finite(draw: Draw, folder: Path) -> Meaning | None:
    tensors = tensors_of(folder)
    flat = tensors[a_read_one(draw, tensors)].view(-1)
    flat[draw.randrange(flat.numel())] = draw.choice((float("nan"), float("inf"), -float("inf"), 3e38))
    write_tensors(folder, tensors)
    return None


def spoilt_file(draw: Draw, folder: Path) -> Meaning | None:
    """Cut, empty, longer, or with a header that lies."""
    data = (folder / FILE).read_bytes()
    place = draw.randrange(len(data))
    lies = (data[: draw.randrange(9)], data[:place], data + b"x" * 9, b"\xff" * 8 + data[8:], bytes(8) + data[8:],
            data.replace(b"F32", b"F16"), data.replace(b"F32", b"I32"), data.replace(b"data_offsets", b"data_offsetz"),
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", b"PK\x03\x04", data[8:])  # fmt: skip
    (folder / FILE).unlink()
    (folder / FILE).write_bytes(draw.choice(lies))
    return None


def stale_single(draw: Draw, folder: Path) -> Meaning | None:
    """A whole file of other weights beside shards with their index, which names what counts."""
    tensors = tensors_of(folder)
    write_shards(folder, tensors)
    write_tensors(folder, {name: tensor * 0.5 for name, tensor in tensors.items()})
    return "harmless"


def adapter_beside(draw: Draw, folder: Path) -> Meaning | None:
    """An adapter that lies in the folder: it is no part of the model."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "base_model_name_or_path": "x"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if draw.random() < 0.5:
        name = "base_model.model.encoder.layer.0.attention.self.query"
        pair = {f"{name}.lora_A.weight": torch.ones(2, 32), f"{name}.lora_B.weight": torch.ones(32, 2)}
        write_tensors(folder, pair, "adapter_model.safetensors")
    return "harmless"


def pickles_beside(draw: Draw, folder: Path) -> Meaning | None:
    """A pickle that must not be opened, beside the weights or in their place."""
    evil = b"\x80\x04cos\nsystem\n(S'touch executed'\ntR."
    (folder / draw.choice(("pytorch_model.bin", "optimizer.pt", "training_args.bin"))).write_bytes(evil)
    if draw.random() < 0.5:
        return "harmless"
    (folder / FILE).unlink()
    return "wrong"


def other_index(draw: Draw, folder: Path) -> Meaning | None:
    """An index that names what is not there, lies elsewhere, or is none."""
    shard_of: dict[str, object] = dict(write_shards(folder, tensors_of(folder)))
    name = draw.choice(list(shard_of))
    kind = draw.randrange(6)
    if kind == 0:
        shard_of[name] = draw.choice(
            ("gone.safetensors", "../x.safetensors", "/etc/passwd", "", ".", "sub/x.safetensors")
        )
    elif kind == 1:
        shard_of[name] = draw.choice((5, None, ["x"], {"a": 1}, True))
    elif kind == 2:
        shard_of.pop(name)
    elif kind == 3:
        shard_of["zebra"] = next(iter(shard_of.values()))
    if kind < 4:
        write_index(folder, shard_of)
    else:
        whole = (
            b"",
            b"{}",
            b"[]",
            b'{"weight_map": []}',
            b'{"weight_map": {}}',
            b'{"weight_map": 5}',
            b"\xff",
            b"[" * 9000,
        )
        (folder / INDEX).write_bytes(draw.choice(whole))
    return "hostile" if kind == 2 else "wrong"


def outside(draw: Draw, folder: Path) -> Meaning | None:
    """Shards that really lie outside the folder, by name."""
    shard_of = write_shards(folder, tensors_of(folder))
    shard = next(iter(shard_of.values()))
    (folder / shard).rename(folder.parent / "outside.safetensors")
    place = draw.choice(("../outside.safetensors", str((folder.parent / "outside.safetensors").absolute())))
    write_index(folder, {name: place if file == shard else file for name, file in shard_of.items()})
    return "wrong"


def doubled(draw: Draw, folder: Path) -> Meaning | None:
    """A tensor that two shards hold, with other values in the one that the index does not name."""
    tensors = tensors_of(folder)
    shard_of = write_shards(folder, tensors)
    name = a_read_one(draw, tensors)
    other = draw.choice([shard for shard in set(shard_of.values()) if shard != shard_of[name]])
    write_tensors(folder, load_file(folder / other) | {name: tensors[name] + 1}, other)
    return "hostile"


def linked(draw: Draw, folder: Path) -> Meaning | None:
    """Files that are links, as in the Hub's cache, or no files at all."""
    if draw.random() < 0.5:
        names = [FILE, "config.json", "tokenizer.json"]
        for name in draw.sample(names, draw.randrange(1, 4)):
            (folder / name).rename(folder.parent / f"blob-{name}")
            (folder / name).symlink_to(f"../blob-{name}")
        return "harmless"
    if draw.random() < 0.3:
        write_shards(folder, tensors_of(folder))
        no_file(draw, folder / draw.choice((INDEX, "model-00002-of-00003.safetensors")))
    else:
        no_file(draw, folder / FILE)
    return None


def things_beside(draw: Draw, folder: Path) -> Meaning | None:
    """What a model folder may hold besides, also under odd names."""
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (
        folder / draw.choice(("README.md", "x" * 250, "model.safetensors.bak", ".hidden", "two\nlines", "tf_model.h5"))
    ).touch()
    return "harmless"


WEIGHTS: dict[str, Callable[[Draw, Path], Meaning | None]] = {
    "weights: missing": missing,
    "weights: renamed": renamed,
    "weights: prefixed": prefixed,
    "weights: extra": extra,
    "weights: other dtype": other_dtype,
    "weights: other shape": other_shape,
    "weights: not finite": not_finite,
    "weights: spoilt file": spoilt_file,
    "weights: stale single file": stale_single,
    "weights: adapter beside": adapter_beside,
    "weights: pickles": pickles_beside,
    "weights: other index": other_index,
    "weights: shards outside": outside,
    "weights: doubled": doubled,
    "weights: links and no files": linked,
    "weights: things beside": things_beside,
}
