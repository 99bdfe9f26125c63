"""Activations of the matrices' inputs on texts: sums alone, in double precision, of real tokens alone.

The texts are read as they are, without a head's template, so that what is measured is the text's and not the prompt's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from graft.tasks.batches import Texts, run_model
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.architecture import architecture_of
from graft.tensors.scope import is_layer_name

LARGEST = 8  # dimensions that are told beside those asked for


@dataclass(frozen=True)
class DimensionActivation:
    """Activation of one dimension, over the matrices that read it.

    Attributes:
        dimension: of the residual stream.
        mean, spread: the mean over tokens and its standard deviation, each averaged over the matrices.
        rms: root mean square over tokens, averaged likewise.
        times_median: rms over that of the median dimension of the same matrix; the median over the matrices.
        position: place among all dimensions by rms, 1 for the largest; the (lower) median over the matrices.
    """

    dimension: int
    mean: float
    spread: float
    rms: float
    times_median: float
    position: int


@dataclass(frozen=True)
class Activations:
    """Activation of some dimensions on texts.

    Attributes:
        n_texts, n_tokens: how many were read.
        n_matrices: how many inputs were measured.
        dimensions: in the order asked for.
        largest: the dimensions with the largest times_median, largest first, whether asked for or not.
        not_measured: matrices whose inputs cannot be told apart by token, such as experts'.
    """

    n_texts: int
    n_tokens: int
    n_matrices: int
    dimensions: tuple[DimensionActivation, ...]
    largest: tuple[DimensionActivation, ...] = ()
    not_measured: tuple[str, ...] = ()


@dataclass
class _Sums:
    """Sums over tokens of a module's input: (width,) fp64 each."""

    n: int = 0
    total: Any = 0.0
    squares: Any = 0.0

    def add(self, states: torch.Tensor) -> None:
        """Add (tokens, width) states."""
        states = states.double()
        self.n += len(states)
        self.total = self.total + states.sum(0).cpu()
        self.squares = self.squares + states.square().sum(0).cpu()


@dataclass
class _Recorder:
    """The sums of every hooked module, and the mask of the batch that runs."""

    sums: dict[str, _Sums]
    mask: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def hook(self, name: str) -> Callable[..., None]:
        """Return a hook that adds a module's input to the sums of that name."""

        def record(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            states = inputs[0]
            if states.shape[:-1] == self.mask.shape or states.shape[:-1] == (self.mask.numel(),):
                self.sums[name].add(states.flatten(0, -2)[self.mask.flatten()])
            elif not is_layer_name(name):  # a pooler's first token, an output layer's: no padding among them
                self.sums[name].add(states.flatten(0, -2))

        return record


def measure_activations(
    head: Head, readers: Sequence[str], dimensions: Sequence[int], examples: Sequence[Example], *, batch_size: int
) -> Activations:
    """Measure some dimensions of the inputs of matrices on texts; nothing of a text but its part of the sums is kept.

    Args:
        head: over the base.
        readers: the base's names of weights that read the residual stream.
        dimensions: of the stream.
        examples: whose texts are read.
        batch_size: texts at once, which no result depends on beyond rounding.
    """
    modules = dict(head.model.named_modules(remove_duplicate=False))
    live = [f"{path}.weight" for path, module in modules.items() if hasattr(module, "weight")]
    found = architecture_of(head.model).name_map.match(readers, live).found
    recorder = _Recorder({name: _Sums() for name in found})
    hooks = [
        modules[weight.removesuffix(".weight")].register_forward_pre_hook(recorder.hook(name))
        for name, weight in found.items()
    ]
    try:
        n_tokens = _read_texts(head, examples, recorder, batch_size)
    finally:
        for hook in hooks:
            hook.remove()
    measured = {name: sums for name, sums in recorder.sums.items() if sums.n}
    asked, largest = (
        tuple(_describe(i, measured) for i in chosen) if measured else ()
        for chosen in (dimensions, _find_largest(measured))
    )
    left_out = tuple(name for name in readers if name not in measured)
    return Activations(len(examples), n_tokens, len(measured), asked, largest, left_out)


def _read_texts(head: Head, examples: Sequence[Example], recorder: _Recorder, batch_size: int) -> int:
    """Run the model on the texts; return the number of their tokens."""
    order = sorted(range(len(examples)), key=lambda i: examples[i].n_characters)
    n_tokens = 0
    with head.evaluating():
        for start in tqdm(range(0, len(order), batch_size), desc="activations", disable=None, leave=False):
            batch = head.tokenize([_text_of(examples[i]) for i in order[start : start + batch_size]])
            recorder.mask = batch["attention_mask"].bool()
            n_tokens += int(recorder.mask.sum())
            first = batch["input_ids"].new_zeros(len(batch["input_ids"]), 1)
            run_model(head.model, {**batch, "decoder_input_ids": first})  # which a model without a decoder ignores
    return n_tokens


def _text_of(example: Example) -> Texts:
    """Return a text, or two; the messages of a chat as one."""
    return ("\n".join(example.texts),) if example.roles or len(example.texts) > 2 else example.texts


def _moments(measured: Mapping[str, _Sums]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return means and mean squares, (matrices, width) fp64 each."""
    means, squares = ([getattr(sums, key) / sums.n for sums in measured.values()] for key in ("total", "squares"))
    return torch.stack(means), torch.stack(squares)


def _ratios(squares: torch.Tensor) -> torch.Tensor:
    """Return (width,) root mean squares over that of each matrix's median dimension; the median over the matrices."""
    sizes = squares.sqrt()
    return (sizes / sizes.quantile(0.5, dim=1, keepdim=True).clamp(min=1e-300)).quantile(0.5, dim=0)


def _find_largest(measured: Mapping[str, _Sums]) -> list[int]:
    return _ratios(_moments(measured)[1]).argsort(descending=True, stable=True)[:LARGEST].tolist() if measured else []


def _describe(dimension: int, measured: Mapping[str, _Sums]) -> DimensionActivation:
    means, squares = _moments(measured)
    spreads, sizes = (squares - means.square()).clamp(min=0).sqrt(), squares.sqrt()
    own = sizes[:, dimension]
    return DimensionActivation(
        dimension,
        mean=float(means[:, dimension].mean()),
        spread=float(spreads[:, dimension].mean()),
        rms=float(own.mean()),
        times_median=float(_ratios(squares)[dimension]),
        position=1 + int((sizes > own.unsqueeze(1)).sum(1).median()),
    )
