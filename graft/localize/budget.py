"""Exact budgets: the number of entries, and the shares of tensors or layers in it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from graft.errors import BudgetError
from graft.specs.localize import Allocation
from graft.tensors.scope import layer_of


def resolve_budget(n_parameters: int, density: float, budget: int | None) -> int:
    """Return k = floor(density * N + 1/2), or the budget as it is.

    Raises:
        BudgetError: nothing would be kept, or more than there is.
    """
    if budget is None and not 0 < density <= 1:
        raise BudgetError(f"density {density:g} is not above 0 and at most 1")
    k = math.floor(density * n_parameters + 0.5) if budget is None else budget
    if k < 1:
        request = f"density {density:g} of {n_parameters:,} parameters" if budget is None else f"budget {budget}"
        raise BudgetError(f"{request} keeps no entry: a patch needs at least one")
    return k


def allocate(k: int, sizes: Mapping[str, int], allocation: Allocation) -> list[tuple[tuple[str, ...], int]]:
    """Share a budget out to groups of tensors, in proportion to their sizes, by largest remainder.

    Args:
        k: the whole budget.
        sizes: tensor name -> number of weights that could be kept.
        allocation: one group, a group per tensor, or a group per layer.

    Returns:
        (names of the group, its share) for each group whose share is not 0; the shares sum to exactly k.

    Raises:
        BudgetError: there are fewer than k weights.
    """
    total = sum(sizes.values())
    if k > total:
        raise BudgetError(
            f"a budget of {k:,} entries, but only {total:,} in scope changed: lower it or widen the scope"
        )
    groups: dict[str, list[str]] = {}
    for name in sizes:
        key = {"global": "", "per-tensor": name, "per-layer": layer_of(name)}[allocation]
        groups.setdefault(key, []).append(name)
    names = [tuple(group) for group in groups.values()]
    shares = _largest_remainder(k, [sum(sizes[name] for name in group) for group in names])
    return [(group, share) for group, share in zip(names, shares, strict=True) if share]


def _largest_remainder(k: int, sizes: list[int]) -> list[int]:
    """Apportion k by Hamilton's method in whole numbers: floors first, then one each to the largest remainders.

    k = 5 over sizes (3, 3, 1): 15/7, 15/7 and 5/7, floors (2, 2, 0); the one left goes to the remainder 5/7: (2, 2, 1).
    """
    total = sum(sizes)
    shares = [k * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(k * sizes[i] % total), i))
    for i in by_remainder[: k - sum(shares)]:
        shares[i] += 1
    return shares
