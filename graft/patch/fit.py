"""Whether a patch fits a model: every check that runs before the first write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from graft.errors import MismatchError, PatchMismatchError
from graft.files.tensor_spec import TensorSpec
from graft.patch.growth import continue_shape
from graft.patch.skill_patch import Patch
from graft.patch.ties import find_joined, find_untied
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES, same_bits
from graft.tensors.growth import Growth, heads_among, rows_by_name
from graft.tensors.names import match_names
from graft.tensors.prints import digest_of, print_of


class Listing(Protocol):
    """The names, dtypes and shapes of something that a patch may land on, as headers alone tell them.

    Attributes:
        names: of all its tensors.
        prefix, rename: for `match_names`.
        can_resize: whether a tensor may take another size there: files are written anew, a live model's are not.
    """

    names: tuple[str, ...]
    prefix: str
    rename: Callable[[str], str]
    can_resize: bool

    def spec(self, name: str) -> TensorSpec:
        """Dtype and shape of a tensor."""
        ...

    def owner(self, name: str) -> str:
        """The one name that stands for all that share the tensor's storage."""
        ...


class Target(Listing, Protocol):
    """Something that a patch may land on: a live model or a checkpoint on disk."""

    def gather(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        """The (k,) values of a tensor at flat indices, on the CPU."""
        ...


@dataclass(frozen=True)
class Fit:
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
        """Whether the patch may be applied."""
        return not self.reasons

    def require(self, what: str) -> Fit:
        """Itself, or an error with the first reasons.

        Raises:
            PatchMismatchError: it does not fit.
        """
        if self.reasons:
            more = f" (and {len(self.reasons) - 1} more)" if len(self.reasons) > 1 else ""
            raise PatchMismatchError(f"the patch does not fit {what}: {self.reasons[0]}{more}")
        return self


def check_fit(patch: Patch, target: Target, *, check_base: bool = True, cast: bool = False) -> Fit:
    """Compare names, shapes, dtypes and the base's values under the mask; nothing is written.

    Args:
        patch: the patch.
        target: what it should land on.
        check_base: whether the base's values must be bitwise the ones the patch was cut from.
        cast: whether another dtype is accepted; needs stored base values, whose casts are compared.
    """
    whole = {name: tuple(tensor.shape) for name, tensor in patch.dense.items()}
    origin = patch.provenance
    fit = check_specs(patch.mask.specs, whole, origin.tied, target, grown=origin.grown, cast=cast)
    # a patch made by hand, of no base that is known, says nothing of ties
    joined = find_joined({**fit.names, **fit.dense}, origin.tied) if origin.base.digest else ()
    fit = Fit(fit.names, fit.dense, (*fit.reasons, *joined))
    if not check_base or not fit.names:
        return fit
    ends = _ends(whole, origin.grown)
    sound = [
        name
        for name, spec in patch.mask.specs.items()
        if not _check_spec(spec, fit.names.get(name), target, cast, ends.get(name))
    ]
    facts = ((name, _check_values(patch, name, fit.names[name], target)) for name in sound)
    wrong = (f"tensor {name!r}: {fact}" for name, fact in facts if fact)
    taken = (
        f"tensor {name!r}: the model has other rows than the patch brings, from row {origin.grown[name].start:,} on"
        for name, end in ends.items()
        if name in fit.dense and _has_others(patch.dense[name], fit.dense[name], end, target)
    )
    return Fit(fit.names, fit.dense, (*fit.reasons, *wrong, *taken))


def check_specs(
    specs: Mapping[str, TensorSpec],
    whole: Mapping[str, tuple[int, ...]],
    tied: Sequence[Sequence[str]],
    listing: Listing,
    *,
    grown: Mapping[str, Growth] | None = None,
    cast: bool = False,
) -> Fit:
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
        names = _match(tied, tuple(specs), listing)
        dense = _match(tied, tuple(whole), listing)
    except MismatchError as error:
        return Fit({}, {}, (str(error),))
    untied = find_untied({**names, **dense}, tied, lambda group: _match((), group, listing))
    grown = grown or {}
    ends = _ends(whole, grown)
    facts = {name: _check_spec(spec, names.get(name), listing, cast, ends.get(name)) for name, spec in specs.items()}
    facts |= {name: _check_rows(dense.get(name), grown[name].start, end, listing) for name, end in ends.items()}
    facts |= _check_whole({name: whole[name] for name in dense.keys() - ends.keys()}, dense, listing)
    wrong = (f"tensor {name!r}: {fact}" for name, fact in facts.items() if fact)
    return Fit(names, dense, (*wrong, *untied))


def check_digest(patch: Patch, checkpoint: Checkpoint) -> str | None:
    """Compare all base tensors, also those that the mask does not touch; a reason, or None where equal."""
    recorded = patch.provenance.base.digest
    if recorded is None:
        return "the patch records no digest of its base"
    found = digest_of(checkpoint)
    return None if found == recorded else f"the base's digest is {recorded[:16]}…, this checkpoint's {found[:16]}…"


def _match(tied: Sequence[Sequence[str]], wanted: tuple[str, ...], listing: Listing) -> dict[str, str]:
    matched = match_names(wanted, listing.names, prefix=listing.prefix, rename=listing.rename)
    found = dict(matched.found)
    for name in matched.missing:  # a tied tensor may be listed under another name of its group
        siblings = next((tuple(group) for group in tied if name in group), ())
        by_sibling = match_names(siblings, listing.names, prefix=listing.prefix, rename=listing.rename).found
        if by_sibling:
            found[name] = next(iter(by_sibling.values()))
    return {name: listing.owner(place) for name, place in found.items()}


def _ends(whole: Mapping[str, tuple[int, ...]], grown: Mapping[str, Growth]) -> dict[str, tuple[int, ...]]:
    """The shapes that grown tensors have with their new rows."""
    return {name: continue_shape(growth, whole[name]) for name, growth in grown.items() if name in whole}


def _check_rows(place: str | None, start: int, end: tuple[int, ...], listing: Listing) -> str | None:
    """What is wrong with a tensor that should hold new rows: those of the base alone will do where it can grow."""
    if place is None:
        return "the model has no such tensor"
    found = listing.spec(place).shape
    if found == end or (listing.can_resize and found == (start, *end[1:])):
        return None
    if found[1:] == end[1:] and not listing.can_resize:
        return (
            f"the patch brings a vocabulary of {end[0]:,} rows, the model has {found[0]:,}: "
            f"call model.resize_token_embeddings({end[0]}) first"
        )
    return f"shape {list(found)}, the patch was cut from {[start, *end[1:]]} and makes it {list(end)}"


def _has_others(rows: torch.Tensor, place: str, end: tuple[int, ...], target: Target) -> bool:
    """Whether files hold a vocabulary's new rows already, and not the patch's: a live model was resized for them."""
    spec = target.spec(place)
    if not target.can_resize or spec.shape != end:
        return False
    held = target.gather(place, torch.arange(spec.numel - rows.numel(), spec.numel))
    return not same_bits(held, rows.flatten().to(held.dtype))


def _check_whole(
    whole: Mapping[str, tuple[int, ...]], places: Mapping[str, str], listing: Listing
) -> dict[str, str | None]:
    """What is wrong with tensors that are replaced whole: only a head may be of another size, and only in files."""
    shapes = {name: (listing.spec(places[name]).shape, shape) for name, shape in whole.items()}
    other = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    heads = heads_among(other, rows_by_name(listing.names, listing.spec)) if other else frozenset()
    facts: dict[str, str | None] = {}
    for name in sorted(other):
        if name not in heads or not listing.can_resize:
            advice = ": load the model with the task's head" if name in heads else ""
            facts[name] = f"{listing.spec(places[name])} cannot be replaced whole by {list(whole[name])}{advice}"
    return facts


def _check_spec(
    wanted: TensorSpec, place: str | None, listing: Listing, cast: bool, end: tuple[int, ...] | None = None
) -> str | None:
    if place is None:
        return "the model has no such tensor"
    found = listing.spec(place)
    if wanted.shape != found.shape and end is not None:
        return None if wanted.dtype == found.dtype or cast else _of_dtype(wanted, found)  # rows are checked apart
    if wanted.shape != found.shape:
        return f"shape {list(found.shape)}, the patch was cut from {list(wanted.shape)}"
    if wanted.dtype != found.dtype and not cast:
        return _of_dtype(wanted, found)
    return None


def _of_dtype(wanted: TensorSpec, found: TensorSpec) -> str:
    return f"dtype {found.dtype}, the patch was cut from {wanted.dtype} (load the model in that dtype, or cast)"


def _check_values(patch: Patch, name: str, place: str, target: Target) -> str | None:
    wanted, found = patch.mask.specs[name], target.spec(place)
    values = target.gather(place, torch.tensor(patch.mask[name]))
    if wanted.dtype == found.dtype:
        same = print_of(values) == patch.base_prints[name]
    elif patch.base_values is None:
        return f"dtype {found.dtype} instead of {wanted.dtype}, and a cast needs a patch with stored base values"
    else:
        same = same_bits(values, patch.base_values[name].to(TORCH_DTYPES[found.dtype]))
    return None if same else f"the values at its {len(values):,} entries are not the base's"
