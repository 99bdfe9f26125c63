"""Compatibility of a patch with a model: every check that runs before the first write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from graft.errors import MismatchError, PatchMismatchError
from graft.files.tensor_spec import TensorSpec
from graft.patch.growth import continue_shape
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES, same_bits
from graft.tensors.growth import Growth, heads_among, rows_by_name
from graft.tensors.hashing import digest_of, hash_values
from graft.tensors.names import NameMap
from graft.tensors.tied_names import TiedNames


class Listing(Protocol):
    """The names, dtypes and shapes of something that a patch may land on, as headers alone tell them.

    Attributes:
        names: of all its tensors.
        name_map: what its architecture says of names.
        can_resize: whether a tensor may take another size there: files are written anew, a live model's are not.
    """

    names: tuple[str, ...]
    name_map: NameMap
    can_resize: bool

    def spec(self, name: str) -> TensorSpec:
        """Return dtype and shape of a tensor."""
        ...

    def owner(self, name: str) -> str:
        """Return the one name that stands for all that share the tensor's storage."""
        ...


class Target(Listing, Protocol):
    """Something that a patch may land on: a live model or a checkpoint on disk."""

    def gather(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        """Return the (k,) values of a tensor at flat indices, on the CPU."""
        ...


@dataclass(frozen=True)
class Compatibility:
    """The outcome of a check.

    Attributes:
        names: the patch's tensor name -> the target's.
        dense: likewise for whole tensors; those that the target lacks are left out.
        reasons: why it does not fit, each naming tensor and fact; empty where it fits.
    """

    names: Mapping[str, str]
    dense: Mapping[str, str]
    reasons: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """True where the patch can be applied."""
        return not self.reasons

    def require(self, what: str) -> Compatibility:
        """Return itself, or refuse with the first reason.

        Raises:
            PatchMismatchError: it does not fit.
        """
        if self.reasons:
            more = f" (and {len(self.reasons) - 1} more)" if len(self.reasons) > 1 else ""
            raise PatchMismatchError(f"the patch does not fit {what}: {self.reasons[0]}{more}")
        return self


def check_compatible(patch: Patch, target: Target, *, check_base: bool = True, cast: bool = False) -> Compatibility:
    """Compare names, shapes, dtypes and the base's values under the mask; nothing is written.

    Args:
        patch: the patch.
        target: what it should land on.
        check_base: whether the base's values must be bitwise the ones the patch was cut from.
        cast: whether another dtype is accepted; needs stored base values, whose casts are compared.
    """
    dense_shapes = {name: tuple(tensor.shape) for name, tensor in patch.dense.items()}
    provenance = patch.provenance
    outcome = check_specs(patch.mask.specs, dense_shapes, provenance.tied, target, grown=provenance.grown, cast=cast)
    # a patch made by hand, of no base that is known, says nothing of ties
    if provenance.base.digest:
        newly_tied = _find_newly_tied({**outcome.names, **outcome.dense}, TiedNames.of(provenance.tied))
        outcome = Compatibility(outcome.names, outcome.dense, (*outcome.reasons, *newly_tied))
    if not check_base or not outcome.names:
        return outcome
    full_shapes = _grown_shapes(dense_shapes, provenance.grown)
    comparable = [
        name
        for name, spec in patch.mask.specs.items()
        if not _check_spec(spec, outcome.names.get(name), target, cast, full_shapes.get(name))
    ]
    facts = ((name, _check_values(patch, name, outcome.names[name], target)) for name in comparable)
    value_reasons = (f"tensor {name!r}: {fact}" for name, fact in facts if fact)
    row_reasons = (
        f"tensor {name!r}: the model has other rows than the patch brings, from row {provenance.grown[name].start:,} on"
        for name, full_shape in full_shapes.items()
        if name in outcome.dense and _has_other_rows(patch.dense[name], outcome.dense[name], full_shape, target)
    )
    return Compatibility(outcome.names, outcome.dense, (*outcome.reasons, *value_reasons, *row_reasons))


def check_specs(
    specs: Mapping[str, TensorSpec],
    dense_shapes: Mapping[str, tuple[int, ...]],
    tied: Sequence[Sequence[str]],
    listing: Listing,
    *,
    grown: Mapping[str, Growth] | None = None,
    cast: bool = False,
) -> Compatibility:
    """Compare names, shapes and dtypes: all that can be known before any value is read.

    Args:
        specs: tensor name -> dtype and shape, of the tensors that a mask touches.
        whole: name -> shape, of the tensors that are replaced whole, and of a vocabulary's new rows.
        tied: groups of base names that share one storage.
        listing: what the patch should land on.
        grown: name -> which of the whole tensors are a vocabulary's new rows.
        cast: whether another dtype is accepted.
    """
    try:
        groups = TiedNames.of(tied)
        names = _match(groups, tuple(specs), listing)
        dense = _match(groups, tuple(dense_shapes), listing)
    except MismatchError as error:
        return Compatibility({}, {}, (str(error),))
    untied = _find_untied({**names, **dense}, groups, listing)
    grown = grown or {}
    full_shapes = _grown_shapes(dense_shapes, grown)
    facts = {
        name: _check_spec(spec, names.get(name), listing, cast, full_shapes.get(name)) for name, spec in specs.items()
    }
    facts |= {
        name: _check_rows(dense.get(name), grown[name].start, full_shape, listing)
        for name, full_shape in full_shapes.items()
    }
    facts |= _check_dense({name: dense_shapes[name] for name in dense.keys() - full_shapes.keys()}, dense, listing)
    reasons = (f"tensor {name!r}: {fact}" for name, fact in facts.items() if fact)
    return Compatibility(names, dense, (*reasons, *untied))


def check_digest(patch: Patch, checkpoint: Checkpoint) -> str | None:
    """Compare all base tensors, also those that the mask does not touch; return a reason, or None where equal."""
    if patch.provenance.base.digest is None:
        return "the patch records no digest of its base"
    return compare_digest(patch, digest_of(checkpoint))


def compare_digest(patch: Patch, actual: str) -> str | None:
    """Compare a checkpoint's digest with that of a patch's base; return a reason, or None where equal or unknown."""
    return compare_digests(patch.provenance.base.digest, actual)


def compare_digests(recorded: str | None, actual: str) -> str | None:
    """Compare a checkpoint's digest with a recorded one of a base; return a reason, or None where equal or unknown."""
    if recorded is None or recorded == actual:
        return None
    return f"the base's digest is {recorded[:16]}…, this checkpoint's {actual[:16]}…"


def _match(tied: TiedNames, wanted: tuple[str, ...], listing: Listing) -> dict[str, str]:
    matched = listing.name_map.match(wanted, listing.names)
    matches = dict(matched.found)
    for name in matched.missing:  # a tied tensor may be listed under another name of its group
        by_sibling = listing.name_map.match(sorted(tied.group_of(name)), listing.names).found
        if by_sibling:
            matches[name] = next(iter(by_sibling.values()))
    return {name: listing.owner(target_name) for name, target_name in matches.items()}


def _find_untied(names: Mapping[str, str], tied: TiedNames, listing: Listing) -> Iterator[str]:
    """Yield a reason for each tensor that the base ties with another, and the model does not."""
    for group in tied:
        first = min((name for name in group if name in names), default=None)
        for other, target_name in _match(TiedNames(), tuple(sorted(group)), listing).items() if first else ():
            if first and target_name != names[first]:
                yield f"tensor {first!r}: the patch's base ties it with {other!r}, the model does not"


def _find_newly_tied(names: Mapping[str, str], tied: TiedNames) -> Iterator[str]:
    """Yield a reason for each tensor that the model ties with another, and the base does not."""
    owners: dict[str, str] = {}
    for name, target_name in names.items():
        other = owners.setdefault(target_name, name)
        if other != name and not tied.are_tied(name, other):
            yield f"tensor {name!r}: the model ties it with {other!r}, the patch's base does not"


def _grown_shapes(row_shapes: Mapping[str, tuple[int, ...]], grown: Mapping[str, Growth]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that grown tensors have with their new rows."""
    return {name: continue_shape(growth, row_shapes[name]) for name, growth in grown.items() if name in row_shapes}


def _check_rows(target_name: str | None, start: int, full_shape: tuple[int, ...], listing: Listing) -> str | None:
    """Return why a tensor cannot take new rows; None where it has them, or has the base's and can grow."""
    if target_name is None:
        return "the model has no such tensor"
    actual = listing.spec(target_name).shape
    if actual == full_shape or (listing.can_resize and actual == (start, *full_shape[1:])):
        return None
    if actual[1:] == full_shape[1:] and not listing.can_resize:
        return (
            f"the patch brings a vocabulary of {full_shape[0]:,} rows, the model has {actual[0]:,}: "
            f"call model.resize_token_embeddings({full_shape[0]}) first"
        )
    return f"shape {list(actual)}, the patch was cut from {[start, *full_shape[1:]]} and makes it {list(full_shape)}"


def _has_other_rows(rows: torch.Tensor, target_name: str, full_shape: tuple[int, ...], target: Target) -> bool:
    """Return whether files hold other new rows than the patch's; a live model's rows were made for the patch."""
    spec = target.spec(target_name)
    if not target.can_resize or spec.shape != full_shape:
        return False
    present = target.gather(target_name, torch.arange(spec.numel - rows.numel(), spec.numel))
    return not same_bits(present, rows.flatten().to(present.dtype))


def _check_dense(
    dense_shapes: Mapping[str, tuple[int, ...]], target_names: Mapping[str, str], listing: Listing
) -> dict[str, str | None]:
    """Return why whole tensors cannot be replaced: only a head may have another size, and only in files."""
    shapes = {name: (listing.spec(target_names[name]).shape, shape) for name, shape in dense_shapes.items()}
    resized = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    heads = heads_among(resized, rows_by_name(listing.names, listing.spec)) if resized else frozenset()
    facts: dict[str, str | None] = {}
    for name in sorted(resized):
        if name not in heads or not listing.can_resize:
            advice = ": load the model with the task's head" if name in heads else ""
            facts[name] = (
                f"{listing.spec(target_names[name])} cannot be replaced whole by {list(dense_shapes[name])}{advice}"
            )
    return facts


def _check_spec(
    wanted: TensorSpec, target_name: str | None, listing: Listing, cast: bool, full_shape: tuple[int, ...] | None = None
) -> str | None:
    if target_name is None:
        return "the model has no such tensor"
    actual = listing.spec(target_name)
    if wanted.shape != actual.shape and full_shape is not None:
        return None if wanted.dtype == actual.dtype or cast else _dtype_fact(wanted, actual)  # rows are checked apart
    if wanted.shape != actual.shape:
        return f"shape {list(actual.shape)}, the patch was cut from {list(wanted.shape)}"
    if wanted.dtype != actual.dtype and not cast:
        return _dtype_fact(wanted, actual)
    return None


def _dtype_fact(wanted: TensorSpec, actual: TensorSpec) -> str:
    return f"dtype {actual.dtype}, the patch was cut from {wanted.dtype} (load the model in that dtype, or cast)"


def _check_values(patch: Patch, name: str, target_name: str, target: Target) -> str | None:
    wanted, actual = patch.mask.specs[name], target.spec(target_name)
    values = target.gather(target_name, torch.tensor(patch.mask[name]))
    if wanted.dtype == actual.dtype:
        same = hash_values(values) == patch.base_hashes[name]
    elif patch.base_values is None:
        return f"dtype {actual.dtype} instead of {wanted.dtype}, and a cast needs a patch with stored base values"
    else:
        same = same_bits(values, patch.base_values[name].to(TORCH_DTYPES[actual.dtype]))
    return None if same else f"the values at its {len(values):,} entries are not the base's"
