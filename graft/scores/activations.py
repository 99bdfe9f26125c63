"""Sums over a task's tokens of the inputs of modules, in double precision, of real tokens alone.

Texts are read as a head reads them, in its template and with what follows, or alone.
Embeddings look up rows, which is a product with one-hot inputs: their sum is how often each row was looked up. That
is known of those that look up what they are called with, a row a token: not of those that make positions of a mask, nor
of tables of distances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from graft.tasks.batches import Texts, run_model
from graft.tasks.examples import Example, order_by_length
from graft.tasks.head import Head
from graft.tensors.architecture import architecture_of
from graft.tensors.scope import is_layer_name
from graft.tensors.transposed import is_conv1d


@dataclass
class InputSums:
    """Sums over tokens of a module's input.

    Attributes:
        n: tokens.
        total, squares: (width,) fp64 each; 0 before the first token.
        missed: inputs that cannot be told apart by token, such as an expert's or a table of distances', in no sum.
        axis: of the weight, along which its inputs lie; None of a module that is no product of matrices.
    """

    axis: int | None = None
    n: int = 0
    total: Any = 0.0
    squares: Any = 0.0
    missed: int = 0

    def add(self, states: torch.Tensor) -> None:
        """Add (tokens, width) states."""
        states = states.double()
        self.n += len(states)
        self.total = self.total + states.sum(0).cpu()
        self.squares = self.squares + states.square().sum(0).cpu()

    def add_rows(self, rows: torch.Tensor, height: int) -> None:
        """Add (tokens,) rows that were looked up, of so many."""
        counts = torch.bincount(rows.flatten(), minlength=height).double().cpu()
        self.n += rows.numel()
        self.total, self.squares = self.total + counts, self.squares + counts

    @property
    def mean_square(self) -> torch.Tensor:
        """(width,) fp64; of a module that no token reached a single 0."""
        return torch.as_tensor(self.squares / max(1, self.n), dtype=torch.float64)


@dataclass
class _Recorder:
    """The sums of every hooked module, and the mask of the batch that runs."""

    sums: dict[str, InputSums]
    mask: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    def hook(self, name: str) -> Callable[..., None]:
        """Return a hook that adds a module's input to the sums of that name."""

        def record(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            """Add a module's input, without padding where it is by token."""
            states, sums = inputs[0], self.sums[name]
            if isinstance(module, torch.nn.Embedding):
                self._add_rows(sums, states, module)
            elif states.shape[:-1] == self.mask.shape or states.shape[:-1] == (self.mask.numel(),):
                sums.add(states.flatten(0, -2)[self.mask.flatten()])
            elif not is_layer_name(name):  # a pooler's first token, an output layer's: no padding among them
                sums.add(states.flatten(0, -2))
            else:
                sums.missed += 1

        return record

    def _add_rows(self, sums: InputSums, rows: torch.Tensor, module: torch.nn.Embedding) -> None:
        if rows.ndim == 1:  # positions, the same for every text
            rows = rows.unsqueeze(0)
        alike = rows.shape in (self.mask.shape, (1, self.mask.shape[-1]))
        if not alike or rows.is_floating_point() or not _looks_up_its_argument(module):
            sums.missed += 1
        else:
            sums.add_rows(rows.expand_as(self.mask)[self.mask], module.num_embeddings)


def _looks_up_its_argument(module: torch.nn.Embedding) -> bool:
    """Return whether what a module is called with are the rows that it looks up; scaled words are, too.

    OPT's positions are called with the mask, BART's with the words.
    """
    return type(module).forward is torch.nn.Embedding.forward or hasattr(module, "embed_scale")


def sum_inputs(
    head: Head, weights: Sequence[str], examples: Sequence[Example], *, batch_size: int, as_task: bool = False
) -> tuple[dict[str, InputSums], int]:
    """Sum the inputs of the modules that hold some weights, over the tokens of texts; no text is kept.

    Args:
        head: over the model, which runs without gradients.
        weights: names as in its files; those that are no module's `weight` are left out.
        examples: whose texts are read.
        batch_size: texts at once, which no sum depends on beyond rounding.
        as_task: read them as the head does, in its template and with what follows; else the texts alone.

    Returns:
        name -> sums, and the number of tokens.
    """
    modules = dict(head.model.named_modules(remove_duplicate=False))
    live = [f"{path}.weight" for path, module in modules.items() if hasattr(module, "weight")]
    found = architecture_of(head.model).name_map.match(weights, live).found
    holders = {name: modules[weight.removesuffix(".weight")] for name, weight in found.items()}
    recorder = _Recorder({name: InputSums(_axis_of(module)) for name, module in holders.items()})
    hooks = [module.register_forward_pre_hook(recorder.hook(name)) for name, module in holders.items()]
    try:
        n_tokens = _read_texts(head, examples, recorder, batch_size, as_task)
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.sums, n_tokens


def _axis_of(module: torch.nn.Module) -> int | None:
    if isinstance(module, torch.nn.Linear):
        return 1
    return 0 if isinstance(module, torch.nn.Embedding) or is_conv1d(module) else None


def _read_texts(head: Head, examples: Sequence[Example], recorder: _Recorder, batch_size: int, as_task: bool) -> int:
    """Run the model on the texts; return the number of their tokens."""
    order = order_by_length(examples)
    n_tokens = 0
    with head.evaluating():
        for start in tqdm(range(0, len(order), batch_size), desc="activations", disable=None, leave=False):
            chosen = [examples[i] for i in order[start : start + batch_size]]
            batches = head.inputs(chosen) if as_task else [head.tokenize(list(map(_text_of, chosen)))]
            for batch in (part for whole in batches for part in _cut_square(whole)):
                recorder.mask = batch["attention_mask"].bool()
                n_tokens += int(recorder.mask.sum())
                first = batch["input_ids"].new_zeros(len(batch["input_ids"]), 1)
                run_model(head.model, {**batch, "decoder_input_ids": first})  # which a model without a decoder ignores
    return n_tokens


def _cut_square(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Return a batch in two parts where it has as many texts as tokens: a table of distances would look like words."""
    n_texts, n_tokens = batch["input_ids"].shape
    if n_texts == 1 or n_texts != n_tokens:
        return [batch]
    return [{name: rows[part] for name, rows in batch.items()} for part in (slice(1), slice(1, None))]


def _text_of(example: Example) -> Texts:
    """Return a text, or two; the messages of a chat as one."""
    return ("\n".join(example.texts),) if example.roles or len(example.texts) > 2 else example.texts
