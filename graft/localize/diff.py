"""A patch from two checkpoints without data: the largest |delta|, or every changed entry."""

from __future__ import annotations

from graft.arguments import checked
from graft.errors import BudgetError
from graft.localize.budget import resolve_budget
from graft.localize.localization import describe_origin, localize_skill
from graft.localize.top_deltas import find_top_delta_mask
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch, cut_patch
from graft.sources.opening import Model, open_model, open_pair
from graft.specs.localize import LocalizeSpec
from graft.specs.reader import to_plain
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from graft.tensors.streaming import stream_tensors


@checked
def diff_checkpoints(
    base: Model,
    tuned: Model,
    *,
    density: float | None = None,
    budget: int | None = None,
    scope: str = "all",
    with_base_values: bool = False,
) -> Patch:
    """Cut the difference of two checkpoints out as a patch.

    Without density and budget every changed entry is kept, buffers included, so that applying the patch gives
    the tuned checkpoint bit for bit (as far as the base's dtype can hold it). With one of them, the k largest
    |delta| of the parameters in scope are; entries that differ only by rounding to another dtype do not count.
    Both may be live models, and the tuned one an adapter of the base, as for `localize_skill`.

    Raises:
        BudgetError: the checkpoints are equal, or the budget is 0 or more than there is.
        MismatchError, CheckpointError, ConfigError: an input is refused; the line says which and why.
    """
    if density is not None or budget is not None:
        config = LocalizeSpec("magnitude", density=density or 0.0, budget=budget, scope=scope)
        return localize_skill(base, tuned, None, config, with_base_values=with_base_values)
    opened = open_model(base)
    pair = open_pair(opened, tuned)
    mask = _find_changed(pair, Scope(scope))
    provenance = describe_origin(opened.located, pair, Scope(scope), to_plain({"method": "diff"}), None)
    return cut_patch(pair, mask, provenance, with_base_values=with_base_values)


def find_core(base: Model, tuned: Model, density: float, scope: str = "all") -> Mask:
    """Find the weights that moved furthest: a share of all parameters, or all that moved where fewer did.

    Raises:
        BudgetError: nothing moved, or the share is less than one weight.
        MismatchError, CheckpointError, ConfigError: an input is refused; the line says which and why.
    """
    pair = open_pair(base, tuned).without_rounding()
    names = pair.names_in(Scope(scope))
    k = resolve_budget(pair.base.n_parameters, density, None)
    core = find_top_delta_mask(pair, names, k)
    if not len(core):
        raise BudgetError("base and tuned checkpoints are equal: no weight moved")
    return core


def _find_changed(pair: CheckpointPair, scope: Scope) -> Mask:
    pair.names_in(scope)  # refuses an empty scope, and tensors that cannot be compared
    names = [name for name in pair.names if scope.holds(name, pair.base.tied)]
    changes = stream_tensors(pair.changed, names, pair.stored, "differences")
    indices = {name: changed.numpy() for name, changed in zip(names, changes, strict=True)}
    mask = Mask.of({name: pair.base.spec(name) for name in names}, indices)
    if not len(mask):
        fact = "equal but for new rows, which alone make no patch" if pair.grown else "equal"
        raise BudgetError(f"base and tuned checkpoints are {fact}: there is nothing to cut out")
    return mask
