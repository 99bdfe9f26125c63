"""Where in a forward pass each module is called first, found out by running the model on one token."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


def find_layers(model: torch.nn.Module, n_layers: int) -> list[torch.nn.Module]:
    """Return a decoder's layers in their order: its outermost list of as many modules; none where there is no such."""
    lists = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    return next((list(modules) for modules in lists if len(modules) == n_layers), [])


def trace_layers(model: torch.nn.Module, layers: list[torch.nn.Module], run: Callable[[], Any]) -> Mapping[str, int]:
    """Return for every module that a forward pass calls, by its name, how many layers were done at its first call.

    So a skill whose modules all have a number of L or more leaves the keys and values of layers 0 to L - 1 as they are.

    Args:
        model: the model.
        layers: its layers.
        run: runs it once.

    Returns:
        Name of a module -> layers done before it; nothing where the model does not hand what one layer gives to the
        next as it is, so that layers cannot be left out.
    """
    done: dict[str, int] = {}
    passed: list[tuple[object, object]] = []  # of each layer its input and output

    def enter(name: str) -> Callable[..., None]:
        def note(module: torch.nn.Module, args: object) -> None:
            done.setdefault(name, len(passed))

        return note

    def leave(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        passed.append((hidden_of((*args, *kwargs.values())), output))

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
        for layer in layers:
            stack.callback(layer.register_forward_hook(leave, with_kwargs=True).remove)
        run()
    return done if len(passed) == len(layers) > 0 and _is_chain(passed) else {}


def _is_chain(passed: list[tuple[object, object]]) -> bool:
    """Return whether each layer is given what the one before gives, and nothing else is handed on."""
    outputs = [output for _, output in passed]
    inputs = [given for given, _ in passed[1:]]
    alone = all(not isinstance(output, tuple) or all(part is None for part in output[1:]) for output in outputs)
    return alone and all(given is hidden_of(output) for given, output in zip(inputs, outputs, strict=False))


def hidden_of(values: Any) -> Any:
    """Return the hidden states among a layer's arguments, or in its output: the first, or the only one."""
    return values[0] if isinstance(values, tuple) and values else values


@contextlib.contextmanager
def keep_output(layer: torch.nn.Module) -> Iterator[list[Any]]:
    """Keep what a layer gives in this block."""
    kept: list[Any] = []
    hook = layer.register_forward_hook(lambda _module, _args, output: kept.append(output))
    try:
        yield kept
    finally:
        hook.remove()


@contextlib.contextmanager
def skip_layers(layers: list[torch.nn.Module], output: Any) -> Iterator[None]:
    """Have layers give, in the place of their work, what the last of them is known to give."""
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = lambda *_, **__: output
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward
