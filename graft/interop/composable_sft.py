"""Sparse fine-tunings of composable-sft (Ansell et al., arXiv 2110.07560): `pytorch_diff.bin`, a pickle.

Three layouts are known, all written by torch.save (its code, `src/sft/sft.py`, was read at several commits):
{"body": {name: sparse tensor}, "head": {...}}, {"body": {name: encoding}} and {"diffs": {name: encoding},
"abs": {name: tensor}}. An encoding is {"size", "index_steps", "values"}: the steps between ascending indices that
count down the columns first. Its own decoder adds the steps up in 32 bits, which wraps from 2^31 elements on, and
takes wrong remainders in tensors of three and more dimensions; here both are done in 64 bits, and correctly.

The pickle is opened by torch's allow-list unpickler (`weights_only=True`). The first step is a scalar of numpy, which
a function of this file rebuilds. Only uncompressed archives of torch >= 1.6 are opened, so that nothing can
expand to more bytes than the file has. Sparse tensors are never coalesced, and no index is used before it is compared
with the shape.
"""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.errors import CheckpointError
from graft.sources.adapters.additive import add_difference
from graft.sources.adapters.imported_weights import Edit, ImportedWeights, check_shape
from graft.tensors.dtypes import assign, take

FILE_NAME = "pytorch_diff.bin"
_DIFFERENCES, _WHOLE = ("diffs", "body"), ("abs", "head")


def read_composable_sft(path: Path) -> ImportedWeights:
    """Read a sparse fine-tuning; of a folder, its `pytorch_diff.bin`.

    Raises:
        CheckpointError: not such a file, or one that holds more than tensors, names and numbers.
    """
    file = path / FILE_NAME if path.is_dir() else path
    content = _unpickle(file)
    differences: Any = next((content[key] for key in _DIFFERENCES if key in content), {})
    whole: Any = next((content[key] or {} for key in _WHOLE if key in content), {})
    if not isinstance(differences, Mapping) or not isinstance(whole, Mapping) or not (differences or whole):
        raise CheckpointError(f"{file}: holds neither {' nor '.join(map(repr, _DIFFERENCES + _WHOLE))} of tensors")
    limit = file.stat().st_size
    edits = {_check_name(name, file): _make_edit(str(name), item, file) for name, item in differences.items()}
    tensors = {_check_name(name, file): _check_whole(str(name), item, file, limit) for name, item in whole.items()}
    return ImportedWeights(edits, {name: partial(_return, tensor) for name, tensor in tensors.items()})


def decode_steps(name: str, encoding: Mapping[str, Any]) -> tuple[tuple[int, ...], torch.Tensor, torch.Tensor]:
    """Decode one encoding into its shape, (k,) int64 row-major flat indices and (k,) values.

    In a (2, 3) tensor the steps 1, 2 lead to 1 and 3, counted down the columns: the entries (1, 0) and (1, 1), whose
    row-major indices are 3 and 4.

    Raises:
        CheckpointError: it contradicts itself.
    """
    try:
        shape = tuple(int(size) for size in encoding["size"])
        steps = np.asarray(encoding["index_steps"])
        values = encoding["values"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"tensor {name!r}: not an encoding of size, index_steps and values") from error
    n = math.prod(shape)
    if not isinstance(values, torch.Tensor) or values.ndim != 1 or steps.shape != tuple(values.shape):
        raise CheckpointError(f"tensor {name!r}: as many steps as values are needed")
    if (
        min(shape, default=0) < 0
        or n >= 2**63
        or (steps.size and (steps.dtype.kind not in "iu" or not _are_ascending(steps, n)))
    ):
        raise CheckpointError(f"tensor {name!r}: its steps leave its shape {list(shape)}")
    column_major = np.cumsum(steps.astype(np.int64))
    if not steps.size:
        return shape, torch.empty(0, dtype=torch.int64), values
    coordinates = np.unravel_index(column_major, shape, order="F")
    return shape, torch.from_numpy(np.ravel_multi_index(coordinates, shape).astype(np.int64)), values


def _are_ascending(steps: np.ndarray, n: int) -> bool:
    """Return whether the steps lead upwards, from index 0 on, to below n; sums of a wide float cannot wrap."""
    if not steps.size:
        return True
    if steps.dtype.kind not in "iu":
        return False
    first, rest = int(steps[0]), steps[1:]
    ordered = first >= 0 and (not rest.size or (int(rest.min()) >= 1 and int(rest.max()) < n))
    return ordered and float(np.sum(steps, dtype=np.float64)) < 2**62 and int(np.sum(steps, dtype=np.int64)) < n


def _make_edit(name: str, item: Any, file: Path) -> Edit:
    if isinstance(item, Mapping):
        return partial(_add_at, name, *decode_steps(name, item))
    if isinstance(item, torch.Tensor) and item.layout == torch.sparse_coo:
        return partial(_add_at, name, *_read_sparse(name, item))
    raise CheckpointError(f"{file}: {name!r} is neither a sparse tensor nor an encoding of one")


def _read_sparse(name: str, item: torch.Tensor) -> tuple[tuple[int, ...], torch.Tensor, torch.Tensor]:
    shape, coordinates, values = tuple(item.shape), item._indices(), item._values()
    if values.ndim != 1 or coordinates.shape != (len(shape), len(values)) or not shape:
        raise CheckpointError(f"tensor {name!r}: a sparse tensor of slices, which no sparse fine-tuning has")
    sizes = torch.tensor(shape, dtype=torch.int64)[:, None]
    if bool(((coordinates < 0) | (coordinates >= sizes)).any()):
        raise CheckpointError(f"tensor {name!r}: an index lies outside its shape {list(shape)}")
    strides = torch.tensor([math.prod(shape[i + 1 :]) for i in range(len(shape))], dtype=torch.int64)[:, None]
    flat = (coordinates * strides).sum(0)
    if len(np.unique(flat.numpy())) != len(flat):
        raise CheckpointError(f"tensor {name!r}: an index occurs twice")
    return shape, flat, values


def _add_at(
    name: str, shape: tuple[int, ...], flat: torch.Tensor, values: torch.Tensor, base: torch.Tensor
) -> torch.Tensor:
    check_shape(name, shape, tuple(base.shape))
    tuned = base.clone(memory_format=torch.contiguous_format)
    assign(tuned, flat, add_difference(take(base, flat), values))
    return tuned


def _unpickle(file: Path) -> Mapping[str, Any]:
    try:
        _check_archive(file)
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickle protocols
            content = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file}: wants more than tensors, names and numbers; nothing was run") from error
    except Exception as error:  # a damaged stream makes the unpickler fail in any way
        raise CheckpointError(f"{file}: not a sound archive of torch.save ({type(error).__name__})") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds no dictionary")
    return content


def _check_archive(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                raise CheckpointError(f"{file}: a compressed archive, which torch.save does not write")
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{file}: not an archive of torch.save (torch >= 1.6)") from error


class _IntegerDtype:
    """Stand-in for numpy.dtype while a pickle is read, so that numpy's own code is given no state from a stranger."""

    def __init__(self, code: object, *flags: object) -> None:
        if code not in ("i8", "i4", "u8", "u4"):
            raise ValueError("a number of another kind than a step")
        self.is_signed = str(code).startswith("i")

    def __setstate__(self, state: tuple[object, ...]) -> None:
        if state[1] != "<":
            raise ValueError("a number of another byte order")


def _rebuild_integer(dtype: _IntegerDtype, data: bytes) -> int:
    """Stand in for numpy's own rebuilding of a scalar."""
    return int.from_bytes(data, "little", signed=dtype.is_signed)


def _allowed() -> list[Any]:
    """List the stand-ins for numpy's integers, under the names by which old and new versions of numpy pickle them."""
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [(_IntegerDtype, "numpy.dtype"), *((_rebuild_integer, name) for name in names)]


def _check_name(name: Any, file: Path) -> str:
    if not isinstance(name, str):
        raise CheckpointError(f"{file}: a tensor's name is no text")
    return name


def _check_whole(name: str, item: Any, file: Path, limit: int) -> torch.Tensor:
    """Return a whole tensor; refuse one whose strides repeat a few bytes, since it could expand to any size."""
    strided = isinstance(item, torch.Tensor) and item.layout == torch.strided
    if not strided or item.numel() * item.element_size() > limit:
        raise CheckpointError(f"{file}: {name!r} is no tensor of its own")
    tensor: torch.Tensor = item.detach().contiguous()
    return tensor


def _return(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
