"""The place of a tensor at the residual stream: whether it reads from it, writes to it, or lies in between.

Which axis of a matrix is its input is told by the base's modules (`graft.tensors.transposed`); one axis of the stream's
width then tells a reader from a writer, and only where both are does the module's name decide. Where no module tells,
every matrix is (out, in) but those that may be a Conv1D's, and packed experts: of these, shape and name together tell.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from graft.files.model_config import read_model_config
from graft.tensors.scope import is_layer_name, kind_of
from graft.tensors.transposed import may_be_transposed, packs_biases, packs_experts

Role = Literal["reads", "writes", "embeds", "scales", "within", "unknown"]
Shape = tuple[int, ...]

# the last part of a module's name, in lower case, as architectures call their layers
_READERS = frozenset(
    {
        *("query", "key", "value", "query_key_value", "q", "k", "v", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin"),
        *("v_lin", "wq", "wk", "wv", "qkv", "wqkv", "qkv_proj", "in_proj", "c_attn"),
        *("intermediate", "gate", "up", "gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc1", "lin1", "fc_in"),
        *("w1", "w3", "wi", "wi_0", "wi_1", "dense_h_to_4h", "router", "pooler", "classifier", "score", "lm_head"),
    }
)
_WRITERS = frozenset(
    {
        *("output", "o", "o_proj", "out_proj", "out_lin", "wo", "attn_out", "c_proj", "proj_out", "down_proj"),
        *("fc2", "lin2", "fc_out", "w2", "dense_4h_to_h", "attention", "self_attention", "attn"),
    }
)
_PLAIN = frozenset({"dense", "proj", "linear"})  # names of layers that only the name before them tells apart
_NORM = re.compile(r"(^|[._])(\w*layer_?norm\w*|\w*norm(\d*|_f)|ln_?\w*)$", re.IGNORECASE)
_INNER_NORM = re.compile(r"(^|[._])(q|k|query|key|kv_a|q_a)_?(layer)?norm$")  # of queries and keys, beside the stream
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim")  # keys of configs for the stream's width


@dataclass(frozen=True)
class Place:
    """Place of a tensor.

    Attributes:
        kind: "matrix", "embedding", "norm", "bias" or "other".
        role: "reads" or "writes" of a matrix at the stream, "writes" of a writer's bias, "embeds" of a table of
            embeddings, "scales" of a norm's weight and bias, "within" of what meets the stream on no side, "unknown".
        transposed: whether a matrix is stored as (in, out).
        why: of "unknown", the reason.
    """

    kind: Literal["matrix", "embedding", "norm", "bias", "other"]
    role: Role
    transposed: bool = False
    why: str = ""


_SIDES: Mapping[Role, str] = {"reads": "reads the stream", "writes": "writes to it", "within": "lies beside it"}
_UNTOLD = Place("other", "unknown", why="only the base's modules tell which axis is its input")


def find_width(folder: Path | None, shapes: Mapping[str, Shape]) -> int:
    """Return the width of the residual stream: of the config, or else the size that most of these tensors have there.

    Names tell which axis meets the stream; where they tell it of no tensor, all sizes count. Of two sizes as frequent
    the smaller is taken: inner layers are wider than the stream. The number of experts that one tensor packs is no size
    of a layer.
    """
    config = read_model_config(folder) if folder is not None else {}
    inner = config.get("text_config")
    for block in (inner if isinstance(inner, dict) else {}, config):
        for key in _WIDTHS:
            if type(width := block.get(key)) is int and width > 0:
                return width
    told = Counter(size for name, shape in shapes.items() if (size := _size_at_stream(name, shape)) is not None)
    votes = told or Counter(
        size for name, shape in shapes.items() for size in set(shape[-2:] if packs_experts(name, shape) else shape)
    )
    return max(votes, key=lambda size: (votes[size], -size), default=0)


def _size_at_stream(name: str, shape: Shape) -> int | None:
    """Return the size of the axis at the stream, where a tensor's name tells it: 64 of keys of (32, 64), readers."""
    if len(shape) == 2 and kind_of(name) == "embeddings":
        return shape[1]
    named = _role_of_layer(name)
    if len(shape) == 1 or packs_biases(name, shape):
        return shape[-1] if named == "writes" else None
    if named is None or len(shape) != 2 or may_be_transposed(name):
        return None
    return shape[1] if named == "reads" else shape[0]


def place_tensor(
    name: str, shape: Shape, width: int, transposed: Mapping[str, bool], *, guessed: bool = False
) -> Place:
    """Return the place of a tensor.

    Args:
        name: the base's.
        shape: as it is stored; experts that are packed have three axes.
        width: of the residual stream.
        transposed: weight -> whether it is stored as (in, out), for those that the base's modules tell of.
        guessed: the width is that of `find_width` without a config, so that a matrix whose name tells another side than
            its shape has no known place.
    """
    module = _module_of(name)
    if len(shape) == 1 or packs_biases(name, shape):
        return _place_vector(name, module, shape[-1], width)
    if len(shape) == 2 and kind_of(name) == "embeddings":
        lies_on = shape[1] == width
        why = "" if lies_on else f"an embedding {shape[1]:,} wide, and the stream has {width:,}"
        return Place("embedding", "embeds" if lies_on else "unknown", why=why)
    is_packed = packs_experts(name, shape)
    if len(shape) == 2 or is_packed:
        told = transposed.get(name)
        if told is None:
            told = _tell_by_shape(module, shape[-2:], width) if is_packed or may_be_transposed(name) else False
        place = _UNTOLD if told is None else _place_matrix(name, shape[-2:], width, told)
        named = _role_of_layer(name) if guessed and told is not None else None
        if named is None or place.role in (named, "unknown"):
            return place
        return replace(place, role="unknown", why=f"{_SIDES[named]} by its name, and {_SIDES[place.role]} by its shape")
    return Place("other", "unknown", why=f"{len(shape)} axes, so no matrix")


def _place_vector(name: str, module: str, size: int, width: int) -> Place:
    if _NORM.search(module):
        is_inner = size != width or _INNER_NORM.search(module)
        return Place("norm", "within" if is_inner else "scales")
    if not re.search(r"(^|[._])bias$", name):
        return Place("other", "unknown", why="a vector that is neither a bias nor of a norm")
    if size != width:
        return Place("bias", "within")
    role = _role_by_name(module)
    if role is None:
        return Place("bias", "unknown", why="as wide as the stream, and its name tells no layer that is known")
    return Place("bias", "writes" if role == "writes" else "within")


def _tell_by_shape(module: str, shape: Shape, width: int) -> bool | None:
    """Tell whether a matrix is (in, out) where its name says which side is the stream's, and one axis alone fits it."""
    named = _role_by_name(module)
    if named is None or (shape[0] == width) == (shape[1] == width):
        return None
    return (shape[0] == width) == (named == "reads")


def _place_matrix(name: str, shape: Shape, width: int, transposed: bool) -> Place:
    named = _role_of_layer(name)
    n_in, n_out = shape if transposed else shape[::-1]
    if width not in (n_in, n_out):
        return Place("matrix", "within", transposed)
    if n_in != n_out:
        return Place("matrix", "reads" if n_in == width else "writes", transposed)
    if named is None:
        return Place("matrix", "unknown", transposed, "square, and its name tells no layer that is known")
    return Place("matrix", named, transposed)


def _module_of(name: str) -> str:
    return re.sub(r"[._](weight|bias)$", "", name)


def _role_of_layer(name: str) -> Literal["reads", "writes"] | None:
    """Return the side that a tensor's name tells; outside the numbered layers, where heads are, only readers do."""
    named = _role_by_name(_module_of(name))
    return named if named == "reads" or is_layer_name(name) else None


def _role_by_name(module: str) -> Literal["reads", "writes"] | None:
    """Return which side of the stream a module's name tells: that of its last part, or of the one before `dense`."""
    parts = [part.lower() for part in module.split(".") if not part.isdecimal()]
    part = next((part for part in reversed(parts) if part not in _PLAIN), "")
    if part in _READERS:
        return "reads"
    is_writer = part in _WRITERS and (part not in ("attention", "self_attention", "attn") or parts[-1] in _PLAIN)
    return "writes" if is_writer else None
