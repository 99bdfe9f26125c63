"""Activations that a forward pass keeps for the backward pass, estimated on a model without weights.

The model of the config is run on torch's meta device, which computes shapes and nothing else, and the bytes that
autograd would keep are counted. Kernels that keep less on a real device (attention that never stores its matrix) make
it an upper bound; on the CPU it was 14 % above a small Llama's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graft.specs.task import TaskSpec
from graft.tasks.batches import longest_input
from graft.tensors.architecture import build_on_meta


@dataclass
class SavedActivations:
    """Tensors that are kept for the backward pass, in bytes.

    Attributes:
        storages: of the tensors kept so far, by their identity, so that each is counted once.
        entering: bytes of each layer's input.
        within: bytes that each layer keeps inside.
    """

    storages: dict[int, torch.UntypedStorage] = field(default_factory=dict)
    entering: list[int] = field(default_factory=list)
    within: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Bytes of all tensors."""
        return sum(storage.nbytes() for storage in self.storages.values())

    @property
    def with_checkpointing(self) -> int:
        """Bytes under gradient checkpointing: every layer's input, and the inside of one layer."""
        return self.total - sum(self.within) + sum(self.entering) + max(self.within, default=0)

    @property
    def without_backward(self) -> int:
        """Bytes of a pass that is followed by no backward one: what is outside of layers, and the inside of one."""
        return self.total - sum(self.within) + max(self.within, default=0)


def estimate_activations(
    folder: Path, task: TaskSpec, batch_size: int, dtype: torch.dtype, trains: Callable[[str], bool]
) -> SavedActivations | None:
    """Estimate what a batch of the longest inputs keeps; None where transformers cannot run the model without weights.

    Args:
        folder: a model folder.
        task: for the longest input and the head.
        batch_size: examples at once.
        dtype: of the model.
        trains: tells by a tensor's name whether it takes a gradient.
    """
    model: Any = build_on_meta(folder)
    if model is None:
        return None
    for name, weight in model.to(dtype).eval().named_parameters():
        weight.requires_grad_(trains(name))
    rows, tokens = _rows(task, batch_size), min(task.max_length, longest_input(model) or task.max_length)
    ids = torch.zeros((rows, tokens), dtype=torch.int64, device="meta")
    mask = torch.ones(
        (rows, 1, tokens, tokens), dtype=torch.bool, device="meta"
    )  # of a smaller one the model would read the values
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in _parameters(model) else {}
    if "logits_to_keep" in _parameters(model) and task.head.entry.has_labels:
        options["logits_to_keep"] = 1
    try:
        return _run(model, {"input_ids": ids, "attention_mask": mask, **options})
    except Exception:  # an operation without a meta kernel, inputs of another kind
        return None


def _rows(task: TaskSpec, batch_size: int) -> int:
    """Return how many sequences a batch becomes: label texts are embedded beside it, choices each for itself."""
    if task.choices is not None:
        return batch_size * max(len(task.labels), 4)
    return batch_size + (len(task.labels) if task.head.entry.embeds_labels else 0)


def _parameters(model: Any) -> Any:
    return inspect.signature(model.forward).parameters


def _run(model: Any, batch: dict[str, Any]) -> SavedActivations:
    from transformers.modeling_layers import GradientCheckpointingLayer

    weights = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved, totals_before = SavedActivations(), []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved.storages[storage._cdata] = storage  # kept alive, so that no other storage gets its identity
        return tensor

    def enter(layer: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        saved.entering.append(next(item.nbytes for item in (*inputs, *options.values()) if torch.is_tensor(item)))
        totals_before.append(saved.total)

    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.register_forward_pre_hook(enter, with_kwargs=True)
            layer.register_forward_hook(lambda *_: saved.within.append(saved.total - totals_before.pop()))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(**batch)
        if "logits" in output:
            output.logits.float().log_softmax(-1)
    return saved
