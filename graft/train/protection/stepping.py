"""A guard for steps that are broken off: torch runs the hooks after a step only if the step did not raise."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch


def guard_step(optimizer: torch.optim.Optimizer, settle: Callable[[], object]) -> Callable[[], None]:
    """Call a function where a step raises, by Ctrl-C too, before the exception goes on.

    Wrappers that are put around the step in the meantime, as by learning rate schedules, stay when this is undone.

    Args:
        optimizer: its attribute `step` is set.
        settle: the function.

    Returns:
        A function that undoes it.
    """
    step, before = optimizer.step, vars(optimizer).get("step")

    @functools.wraps(step)  # with the marks of schedules that wrapped it before
    def guarded(_: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except BaseException:
            settle()
            raise

    bound = types.MethodType(guarded, optimizer)
    vars(optimizer)["step"] = bound

    def undo() -> None:
        if vars(optimizer).get("step") is bound:
            del vars(optimizer)["step"]
            if before is not None:
                vars(optimizer)["step"] = before

    return undo
