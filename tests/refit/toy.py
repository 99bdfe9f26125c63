"""A support that tests add to the registry: one file and one row."""

from __future__ import annotations

from graft.patch.mask import Mask
from graft.refit.registry import Support
from graft.refit.support import SupportContext

SUPPORT = Support(name="toy", help="the first weights by name", target="tests.refit.toy:first_weights")


def first_weights(context: SupportContext) -> Mask:
    """Choose the first k weights of the first tensor in scope."""
    name = min(context.weights)
    return Mask.of({name: context.base.spec(name)}, {name: range(context.k)})
