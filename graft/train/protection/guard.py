"""Protection in force: hooks on gradients and on the optimizer's step that keep core regions bitwise as they are."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import torch

from graft.arguments import checked
from graft.errors import ProtectionError
from graft.interrupts import finish
from graft.parallel.sharded import reshard
from graft.patch.module_identity import ModuleIdentity
from graft.tensors.shards import is_distributed
from graft.train.protection.compact import Compact, Exchange, is_elementwise
from graft.train.protection.protected_set import Masks, ProtectedSet
from graft.train.protection.region import ProtectedRegion
from graft.train.protection.restored import Restored
from graft.train.protection.saved_state import SavedState
from graft.train.protection.stepping import guard_step
from graft.train.protection.unoptimized import Unoptimized

How = Literal["auto", "restore", "bits", "compact"]
Part = Restored | Compact | Unoptimized
FEW = 0.25  # a tensor with a smaller share of free entries is optimized compactly: less memory and less time
_guarded: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()


class Protection:
    """The protection of core regions under an optimizer until `release()`; as a context manager it ends on leaving.

    Args:
        model: the model that the optimizer trains.
        optimizer: any torch optimizer, or a wrapper that has one as its attribute `optimizer`.
        regions: the protected coordinates.
        how: as in `protect`.
        matched_values: a word for the values there: "skill", "base" or "present".
        left_free: name -> why, of the whole tensors of patches that are not held.

    Attributes:
        k: number of protected entries.
        n_parameters: of the model, tied ones counted once.

    Raises:
        ProtectionError: the optimizer holds other tensors than the model, or is under protection already.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        regions: Sequence[ProtectedRegion],
        how: How = "auto",
        matched_values: str = "present",
        left_free: Mapping[str, str] | None = None,
    ) -> None:
        self.optimizer = _innermost(optimizer)
        optimized = {id(weight) for group in self.optimizer.param_groups for weight in group["params"]}
        _check_optimizer(model, self.optimizer, regions, optimized)
        self.matched_values, self.left_free = matched_values, left_free or {}
        self.k = sum(region.k for region in regions)
        self.n_parameters = sum(weight.numel() for weight in model.parameters())
        elementwise = is_elementwise(self.optimizer)
        sparse = {id(module.weight) for module in model.modules() if getattr(module, "sparse", None) is True}
        if how == "auto" and sparse & {id(region.tensor) for region in regions}:
            elementwise = False  # sparse gradients, as of an embedding, are by rows and not by entries
        self._parts = [_choose_part(region, how, elementwise, id(region.tensor) in optimized) for region in regions]
        self._tensors = {region.name: region.tensor for region in regions}
        self._forms = {name: (tensor.shape, tensor.dtype) for name, tensor in self._tensors.items()}
        self._model, self._identity = model, ModuleIdentity(model, self._tensors)
        compact = [part for part in self._parts if isinstance(part, Compact)]
        self._exchange = Exchange(compact)
        self._open = False  # within a step
        self._released = False
        self._violation: str | None = None
        saved = SavedState(self.optimizer, regions, [part.region for part in compact], elementwise)
        self._hooks = [
            *saved.hooks,
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
            *(_mask_gradients(part) for part in self._parts if part.region.tensor.requires_grad),
        ]
        self._undo_step = guard_step(self.optimizer, self._settle)
        _guarded.add(self.optimizer)

    def restore(self) -> None:
        """Put the protected values back, where something other than the optimizer's step may have moved them.

        Raises:
            ProtectionError: a tensor was cast or got another shape.
        """
        self._refuse_reshaped()
        self._put_back()

    def check(self) -> None:
        """Compare every protected entry with what it held when protection began, bit for bit.

        Raises:
            ProtectionError: one moved, or the model holds another tensor in place of a protected one.
        """
        self._settle()
        if fact := self._find_violation():
            raise ProtectionError(fact)

    def release(self) -> None:
        """End protection; weights and optimizer stay as they are, and compact state gets its full size, with 0."""
        if self._released:
            return
        try:
            self._settle()
        finally:
            for hook in self._hooks:
                hook.remove()
            self._undo_step()
            self._exchange.spread(self.optimizer)
            _guarded.discard(self.optimizer)
            self._released = True

    def end(self) -> None:
        """Check, put protected values back, and release in any case; a second call does nothing.

        Raises:
            ProtectionError: as `check` does.
        """
        finish(self._end)
        fact, self._violation = self._violation, None
        if fact:
            raise ProtectionError(fact)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that protection holds."""
        return sum(part.nbytes for part in self._parts)

    @property
    def implementation(self) -> str:
        """The ways in which tensors are protected, with the number of tensors of each."""
        ways = Counter(part.way for part in self._parts)
        return ", ".join(f"{way} in {n} tensor{'s' * (n > 1)}" for way, n in sorted(ways.items()))

    def describe(self) -> str:
        """Describe protection in one line: number of entries, their share, values, implementation, and what is free."""
        share = f"{self.k / self.n_parameters:.4g} of {self.n_parameters:,}"
        free = ", ".join(f"{name} ({fact})" for name, fact in self.left_free.items())
        line = f"protected: {self.k:,} entries ({share}), {self.matched_values} values; {self.implementation}"
        return f"{line}; the patch's whole tensors left free: {free}" if free else line

    def __enter__(self) -> Protection:
        if self._released:
            raise ProtectionError("this protection was released: call `protect` again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave(error)
        except ProtectionError:
            raise
        except BaseException as interrupt:  # Ctrl-C, perhaps before signals were deferred
            self._leave(interrupt)
            raise

    def _leave(self, error: BaseException | None) -> None:
        try:
            self.end()
        except ProtectionError as violation:
            if error is None:
                raise
            error.add_note(str(violation))  # the first error is the one that is raised

    def _end(self) -> None:
        if self._released:
            return
        try:
            self._settle()
            self._violation = self._violation or self._find_violation()
            self._put_back()
        except Exception:
            self.release()
            raise
        self.release()

    def _put_back(self) -> None:
        for part in self._parts:
            if isinstance(part, Restored) and not self._describe_reshaped(part.region):
                part.restore()

    def _find_violation(self) -> str | None:
        """Describe the first tensor whose protection was violated; None where all hold their bits."""
        if any(is_distributed(tensor) for tensor in self._tensors.values()):
            reshard(self._model)
        if (lost := self._identity.lost(self._tensors)) is not None:
            return (
                f"tensor {lost!r}: the model holds another in its place than the one that was protected: replace, "
                "resize or tie weights first, then make the optimizer, then protect"
            )
        facts = (self._describe_reshaped(part.region) or _describe_moved(part) for part in self._parts)
        return next((fact for fact in facts if fact), None)

    def _refuse_reshaped(self) -> None:
        for part in self._parts:
            if fact := self._describe_reshaped(part.region):
                raise ProtectionError(fact)

    def _describe_reshaped(self, region: ProtectedRegion) -> str | None:
        shape, dtype = self._forms[region.name]
        tensor = region.tensor
        if (tensor.shape, tensor.dtype) == (shape, dtype):
            return None
        then, now = f"{dtype} {list(shape)}", f"{tensor.dtype} {list(tensor.shape)}"
        return f"tensor {region.name!r}: was {then} when it was protected, and is {now} now"

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        self._settle()  # after a step that was broken off and ran no hook at its end
        if not self._exchange.parts:
            self._open = True
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is not None:  # an elementwise optimizer calls it once, at the start: call it before the exchange
            with torch.enable_grad():
                loss = closure()
            args, kwargs = (args[0], lambda: loss), {}
        self._open = True
        self._exchange.enter(optimizer)
        return args, kwargs

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._settle()
        self._refuse_reshaped()

    def _settle(self) -> None:
        """End a step that has begun and undo its changes of protected entries; an interrupt waits for that."""
        if self._open:
            finish(self._close)

    @torch.no_grad()
    def _close(self) -> None:
        self._exchange.leave(self.optimizer)
        self._put_back()
        self._open = False


@checked
def protect(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    masks: Masks,
    *,
    unprotect: Masks = (),
    how: How = "auto",
) -> Protection:
    """Keep core regions of a model bitwise as they are through any number of steps of any torch optimizer.

    ::

        with graft.protect(model, optimizer, [patch, mask]) as protection:
            ...  # your loop
        # put back, checked and released here, also where an exception leaves

    Their gradients are set to 0 as soon as they are computed, so that clipping does not see them, and whatever
    momentum, weight decay or anything else in the optimizer's step does, the entries hold their bits after it. Make
    the optimizer after the model is moved or wrapped.

    Args:
        model: any torch module, also within data-parallel and compiled wrappers.
        optimizer: over its parameters.
        masks: a patch is accepted where the model holds its values, or the base's, at every entry; a whole tensor
            that it brings is protected where the model holds its values, and left free elsewhere. A mask protects the
            present values.
        unprotect: coordinates to leave out of them.
        how: "restore" keeps the values and the indices (8 bytes an entry) and puts them back after each step; "bits"
            keeps one bit a weight in place of indices, and takes longer; "compact" lets the optimizer have nothing
            but the free entries, with as much state, where it moves every entry independently; "auto" is "compact" for
            tensors of which less than a quarter is free, else "restore".

    Raises:
        PatchMismatchError: the model lacks a tensor or it has another shape; a patch of another base.
        ProtectionError: the optimizer holds other tensors than the model, or is under protection already.
        ConfigError: the model is partitioned by DeepSpeed ZeRO-3 or FSDP1.
    """
    core = ProtectedSet.of(masks, unprotect)
    return Protection(model, optimizer, core.regions(model), how, core.matched_values(model), core.left_free(model))


def _innermost(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer within wrappers, such as accelerate's, whose own step runs no hooks."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    innermost: torch.optim.Optimizer = optimizer
    return innermost


def _check_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, regions: Sequence[ProtectedRegion], optimized: set[int]
) -> None:
    if optimizer in _guarded:
        raise ProtectionError("the optimizer is under protection already: give all masks in one call")
    own = {id(weight) for weight in model.parameters()}
    others = [region for region in regions if id(region.tensor) not in optimized]
    lacking = [region.name for region in others if region.tensor.requires_grad and region.tensor.is_leaf]
    if lacking and not optimized <= own:
        raise ProtectionError(
            f"the optimizer holds other tensors than the model's, and not its {lacking[0]!r}: "
            "make it after the model was moved or wrapped"
        )


def _choose_part(region: ProtectedRegion, how: How, elementwise: bool, optimized: bool) -> Part:
    if not isinstance(region.tensor, torch.nn.Parameter):
        return Restored(region, packed=how == "bits")  # a buffer, which the forward pass writes to
    if not optimized:
        return Unoptimized(region)
    few = how == "compact" or (how == "auto" and region.free_share < FEW)
    if few and elementwise and region.tensor.ndim and not is_distributed(region.tensor):
        return Compact(region)
    return Restored(region, packed=how == "bits")


def _describe_moved(part: Part) -> str | None:
    if not (n_moved := part.count_moved()):
        return None
    count = f"{n_moved:,} of its {part.region.k:,}" if isinstance(part, Restored) else "some"
    return (
        f"tensor {part.region.name!r}: {count} protected entries do not hold their bits any more; "
        "something other than the optimizer wrote to them"
    )


def _mask_gradients(part: Part) -> Any:
    def mask(weight: torch.Tensor) -> None:
        if weight.grad is not None and not weight.grad.is_sparse:  # torch clips no sparse gradients
            part.mask_gradient(weight.grad)

    hook: Callable[[torch.Tensor], None] = torch.no_grad()(mask)
    return part.region.tensor.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
