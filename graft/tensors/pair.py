"""A base and a tuned checkpoint of one architecture, read side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from graft.errors import CheckpointError, MismatchError
from graft.files.header import quote
from graft.tensors.architecture import name_map_of
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES, as_bits, is_finite, same_bits, take
from graft.tensors.growth import compare_shapes
from graft.tensors.names import NameMap
from graft.tensors.relayout import relay
from graft.tensors.rounding import narrow_dtype, undo_rounding
from graft.tensors.scope import Scope, is_layer_name

CHUNK = 1 << 17  # weights at a time: what is computed of two chunks stays in a core's cache


@dataclass(frozen=True)
class CheckpointPair:
    """Base and tuned checkpoints whose tensors have been matched by name and shape.

    Attributes:
        base: the pretrained checkpoint; its names, dtypes and shapes are the ones that count.
        tuned: the fine-tuned checkpoint.
        names: base name -> tuned name, in ascending order of base name, aliases of tied tensors left out. Of a
            tensor to which the tuned vocabulary added rows, the rows that both have are compared.
        extra: names of tuned tensors that the base lacks, such as a classifier head.
        absent: names of base tensors that the tuned checkpoint lacks, such as an unused pretraining head.
        grown: base names of the tensors to which the tuned vocabulary added rows.
        replaced: base name -> tuned name, of heads of another size.
        unlike: base name -> why a tensor cannot be compared; it is refused where it is in scope.
        ignores_rounding: whether tuned values that only rounding to the tuned dtype explains read as the base's.
    """

    base: Checkpoint
    tuned: Checkpoint
    names: Mapping[str, str]
    extra: tuple[str, ...]
    absent: tuple[str, ...]
    grown: frozenset[str] = frozenset()
    replaced: Mapping[str, str] = field(default_factory=dict)
    unlike: Mapping[str, str] = field(default_factory=dict)
    ignores_rounding: bool = False

    @classmethod
    def open(cls, base: Path | Checkpoint, tuned: Path | Checkpoint) -> CheckpointPair:
        """Open and match two checkpoints, reading headers alone (and tied tensors, to compare them).

        Raises:
            CheckpointError: one of them cannot be read.
            MismatchError: names or tied weights do not agree; the tensor is named.
        """
        base = base if isinstance(base, Checkpoint) else Checkpoint.open(base)
        tuned = tuned if isinstance(tuned, Checkpoint) else Checkpoint.open(tuned)
        name_map = name_map_of(tuned.architecture, base.architecture)
        by_prefix = NameMap(name_map.prefix)  # names of one live model, which are renamed already
        wanted = [name for name in base.names if name not in base.aliases | base.left_out]
        matched = name_map.match(wanted, [name for name in tuned.names if name not in tuned.left_out])
        names = dict(matched.found)
        unused = _follow_ties(base, tuned, names, list(matched.unused), by_prefix)
        names |= _tied_in_tuned(tuned, [name for name in matched.missing if name not in names], by_prefix)
        relaid, used = relay(tuned, {name: base.spec(name) for name in matched.missing if name not in names}, unused)
        tuned.relaid |= relaid
        names |= {name: name for name in relaid}
        unused = [name for name in unused if name not in used]
        absent = tuple(name for name in matched.missing if name not in names)
        _check_absent(base, tuned, absent, names)
        shapes = compare_shapes(base, tuned, names)
        replaced = {name: names.pop(name) for name in sorted(shapes.replaced)}
        names = {name: other for name, other in sorted(names.items()) if name not in shapes.unlike}
        return cls(base, tuned, names, tuple(sorted(unused)), absent, shapes.grown, replaced, shapes.unlike)

    def without_rounding(self) -> CheckpointPair:
        """Return the same pair, in which values that differ only by rounding to the tuned dtype count as equal."""
        return replace(self, ignores_rounding=True)

    def names_in(self, scope: Scope) -> tuple[str, ...]:
        """Return the base's parameters in scope that both checkpoints have, in ascending order.

        Raises:
            MismatchError: one of them cannot be compared.
            ConfigError: the scope holds no tensor.
        """
        self.refuse_unlike(scope)
        return tuple(name for name in scope.names(self.base) if name in self.names)

    def refuse_unlike(self, scope: Scope) -> None:
        """Refuse tensors in scope that are of another shape or kind in the two checkpoints.

        Raises:
            MismatchError: naming the first.
        """
        for name, fact in self.unlike.items():
            if scope.holds(name):
                advice = "another architecture" if is_layer_name(name) else "a scope without it leaves it out"
                more = "" if is_layer_name(name) else ", such as --scope layers"
                raise MismatchError(f"{fact}: {advice}{more}")

    @cached_property
    def narrow(self) -> torch.dtype | None:
        """The 16-bit dtype that holds all of the tuned checkpoint's 32- or 64-bit parameters, where one does."""
        return narrow_dtype(map(self.read_tuned, (name for name in self.names if name not in self.base.buffers)))

    def rounds(self, name: str) -> bool:
        """Return whether a tensor is in another dtype in the tuned checkpoint, to which its values were rounded."""
        return self.narrow is not None or self.tuned.spec(self.names[name]).dtype != self.base.spec(name).dtype

    def whole_in(self, scope: Scope) -> tuple[str, ...]:
        """Return the whole tensors that go with a scope: heads always, new rows where the vocabulary is in scope.

        The rows of all the vocabulary's tensors go together, since a model has one vocabulary.
        """
        rows = self.grown if any(map(scope.holds, self.grown)) else frozenset()
        return tuple(sorted({*self.extra, *self.replaced, *rows}))

    def read_whole(self, name: str) -> torch.Tensor:
        """Read a whole tensor, or a vocabulary's new rows, in the dtype of the base's tensor where it has the name.

        Raises:
            CheckpointError: a value is NaN or infinite.
        """
        tensor = self.tuned.read(self.replaced.get(name, self.names.get(name, name)))
        if name in self.grown:
            tensor = tensor[self.base.spec(name).shape[0] :]
        if name in self.grown or name in self.replaced:
            tensor = tensor.to(TORCH_DTYPES[self.base.spec(name).dtype])
        refuse_not_finite(tensor, name, self.tuned.path)
        return tensor.clone()

    def read_tuned(self, name: str) -> torch.Tensor:
        """Read one tensor of the tuned checkpoint in the base's shape, as it is stored: not rounded, nor checked."""
        tensor = self.tuned.read(self.names[name])
        return tensor[: self.base.spec(name).shape[0]] if name in self.grown else tensor

    def align(self, base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
        """Return tuned values rounded to nearest-even in the base's dtype.

        Args:
            base, tuned: values of one tensor at the same coordinates.
        """
        rounded = tuned.to(base.dtype)
        return undo_rounding(base, rounded, self.narrow or tuned.dtype) if self.ignores_rounding else rounded

    def read(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Read one tensor of both, the tuned one rounded to nearest-even in the base's dtype.

        Raises:
            CheckpointError: a value of either is NaN or infinite, or overflows the base's dtype.
        """
        base = self.base.read(name)
        tuned = self.align(base, self.read_tuned(name))
        self.refuse_not_finite(name, base, tuned)
        return base, tuned

    def read_at(self, name: str, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the (k,) values of base and tuned at flat row-major indices of a tensor, both in the base's dtype."""
        base = take(self.base.read(name), indices)
        return base, self.align(base, take(self.read_tuned(name), indices))

    def stored(self, name: str) -> list[tuple[Checkpoint, str]]:
        """Return the stored tensors that reading a tensor of both reads."""
        return [(self.base, name), (self.tuned, self.names[name])]

    def chunks(self, name: str, length: int | None = None) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Yield one tensor of both in chunks, so that memory does not grow with the tensor.

        Yields:
            start: flat index of the chunk's first element.
            base, tuned: (n,) n <= `length`, or `CHUNK` without one; read-only, as in `read` but not checked
                (`refuse_not_finite` does that).
        """
        base, tuned = self.base.read(name).flatten(), self.read_tuned(name).flatten()
        for start, (base_part,) in chunks_of([base], base.dtype, length):
            yield start, base_part, self.align(base_part, tuned[start : start + len(base_part)])

    def changed(self, name: str) -> torch.Tensor:
        """Find the (k,) int64 flat indices of one tensor at which the bits differ.

        Raises:
            CheckpointError: as in `read`.
        """
        # one array that grows in place: many small arrays among large temporaries would keep freed memory from reuse
        indices, k = np.empty(CHUNK, np.int64), 0
        for start, base, tuned in self.chunks(name):
            self.refuse_not_finite(name, base, tuned)
            positions = (as_bits(tuned) != as_bits(base)).nonzero().squeeze(1).numpy()
            if k + len(positions) > len(indices):
                indices.resize(2 * len(indices), refcheck=False)  # enough: a chunk has no more than there is
            np.add(positions, start, out=indices[k : k + len(positions)])
            k += len(positions)
        indices.resize(k, refcheck=False)
        return torch.from_numpy(indices)

    def refuse_not_finite(self, name: str, base: torch.Tensor, tuned: torch.Tensor) -> None:
        """Refuse values of one tensor of both that are NaN or infinite; a buffer's that did not change may be.

        Raises:
            CheckpointError: naming the checkpoint and the tensor.
        """
        if name in self.base.buffers:  # such as a mask of -inf, which is nobody's change
            changed = as_bits(base) != as_bits(tuned)
            base, tuned = base[changed], tuned[changed]
        refuse_not_finite(base, name, self.base.path)
        refuse_not_finite(tuned, name, self.tuned.path)

    def read_delta(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Read delta in fp32 and the changed entries of one tensor, both flat.

        Returns:
            delta: (n,) fp32, tuned - base.
            changed: (n,) bool, where the bits differ.
        """
        base, tuned = (tensor.flatten() for tensor in self.read(name))
        return tuned.float() - base.float(), as_bits(tuned) != as_bits(base)


def chunks_of(
    tensors: Sequence[torch.Tensor], dtype: torch.dtype, length: int | None = None
) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Yield tensors of one shape side by side, in chunks of at most `length` elements, `CHUNK` by default.

    Yields:
        start: flat index of the chunk's first element.
        parts: (n,) of each tensor, rounded to `dtype`, read-only.
    """
    flat, length = [tensor.flatten() for tensor in tensors], length or CHUNK
    for start in range(0, len(flat[0]), length):
        yield start, [tensor[start : start + length].to(dtype) for tensor in flat]


def refuse_not_finite(tensor: torch.Tensor, name: str, path: Path) -> None:
    """Refuse a tensor with NaN or infinite values.

    Raises:
        CheckpointError: naming the tensor.
    """
    if not is_finite(tensor):
        raise CheckpointError(f"{path.name}: tensor {quote(name)} holds NaN or infinite values")


def _follow_ties(
    base: Checkpoint, tuned: Checkpoint, names: dict[str, str], unused: list[str], name_map: NameMap
) -> list[str]:
    """Drop tuned names that repeat a tensor which the base ties; refuse those that hold other values."""
    for group in base.tied:
        owner = next((name for name in sorted(group) if name in names or name in base.files), None)
        repeats = name_map.match(group, unused).found.values()
        for repeat in repeats:
            if owner is not None and owner not in names:
                names[owner] = repeat
            elif owner is not None and not same_bits(tuned.read(names[owner]), tuned.read(repeat)):
                raise MismatchError(f"the base ties {owner!r} with {repeat!r}, but the tuned checkpoint unties them")
            unused = [name for name in unused if name != repeat]
    return unused


def _tied_in_tuned(tuned: Checkpoint, lacking: list[str], name_map: NameMap) -> dict[str, str]:
    """Match the names that the base lists apart and the tuned checkpoint lists once, under a tied name."""
    names: dict[str, str] = {}
    for group in tuned.tied if lacking else ():
        listed = sorted(group & tuned.files.keys())
        if listed:
            names |= dict.fromkeys(name_map.match(lacking, group).found, listed[0])
    return names


def _check_absent(base: Checkpoint, tuned: Checkpoint, absent: tuple[str, ...], names: Mapping[str, str]) -> None:
    """Refuse a tuned model that lacks a tensor of a numbered layer; a head may be dropped in tuning."""
    layers = [name for name in absent if is_layer_name(name) and name not in base.buffers]
    if layers or not names:
        missing = f"tensor {layers[0]!r} of the base" if layers else "every tensor of the base"
        raise MismatchError(f"{tuned.path.name} is of another architecture than {base.path.name}: it lacks {missing}")
