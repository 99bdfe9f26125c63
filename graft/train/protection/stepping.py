"""Steps of an optimizer that are broken off: torch runs the hooks after a step only where the step came to its end."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch


def guard_step(optimizer: torch.optim.Optimizer, settle: Callable[[], object]) -> Callable[[], None]:
    """Have something done where a step raises, Ctrl-C included, before that is heard of.

    Whoever wraps the step in the meantime, as learning rate schedules do, keeps what they wrapped.

    Args:
        optimizer: its attribute `step` is set.
        settle: what is done.

    Returns:
        What undoes it.
    """
    step, before = optimizer.step, vars(optimizer).get("step")

    @functools.wraps(step)  # with the marks of schedules that wrapped it before
    def guarded(_: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except BaseException:
            settle()
            raise

    mine = types.MethodType(guarded, optimizer)
    vars(optimizer)["step"] = mine

    def undo() -> None:
        if vars(optimizer).get("step") is mine:
            del vars(optimizer)["step"]
            if before is not None:
                vars(optimizer)["step"] = before

    return undo
