"""BitDelta's second stage (arXiv 2402.10193): the scales fitted to the tuned model's predictions on unlabeled texts.

The signs stay; the loss is KL(tuned || extracted) over the task's labels on the training texts, whose labels are not
read (the paper: squared error of the logits on general text, 800 examples). Adam moves the logarithms of the scales,
since these differ by orders of magnitude; d loss / d log scale = scale * sum(gradient * signs).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from tqdm import tqdm

from graft.errors import ConfigError
from graft.extraction.bitdelta import SignedMatrix, store_signs
from graft.extraction.extracted import Extracted
from graft.extraction.inputs import ExtractionInput
from graft.patch.live import LiveTarget
from graft.refit.objective import divergences
from graft.tasks.head import Head


def extract_distilled_signs(inputs: ExtractionInput, n_bits: float) -> Extracted:
    """Take the signs of every changed matrix once, and distill their scales.

    Raises:
        ConfigError: more than one bit.
    """
    if n_bits != 1:
        raise ConfigError(f"bitdelta_distilled: bits must be 1, not {n_bits:g}")
    parts = {name: SignedMatrix.of(delta) for name, delta in inputs.deltas(matrices=True)}
    logs = torch.stack([part.scale for part in parts.values()]).log()
    head = inputs.open(inputs.base)
    found = LiveTarget(head.model).match(inputs.changed).found
    live = {name: head.model.get_parameter(found[name]) for name in inputs.changed}
    _put_on(inputs, live)
    _fit(inputs, head, logs, [(live[name], inputs.pair.base.read(name), part) for name, part in parts.items()])
    scales = dict(zip(parts, logs.exp(), strict=True))
    distilled = {name: [dataclasses.replace(part, scale=scales[name].clone())] for name, part in parts.items()}
    return store_signs(inputs, distilled)


def _put_on(inputs: ExtractionInput, live: dict[str, torch.nn.Parameter]) -> None:
    """Give the live model the tensors that are no matrices, as they are stored."""
    with torch.no_grad():
        for name, delta in inputs.deltas(matrices=False):
            live[name].copy_(inputs.pair.base.read(name).float() + delta.half().float())


def _fit(
    inputs: ExtractionInput,
    head: Head,
    logs: torch.Tensor,
    weights: list[tuple[torch.nn.Parameter, torch.Tensor, SignedMatrix]],
) -> None:
    """Fit the logarithms of the scales in place."""
    how, texts = inputs.config.distill, inputs.task.train_examples()
    wanted = inputs.open(inputs.tuned).predict(texts, label="tuned")
    head.model.requires_grad_(False)
    for live, _, _ in weights:
        live.requires_grad_(True)
    optimizer = torch.optim.Adam([logs], lr=how.lr)
    for batch in tqdm(list(_draw(len(texts), how.batch_size, how.epochs, inputs.seed)), desc="distill", disable=None):
        for log, (live, base, part) in zip(logs, weights, strict=True):
            live.data.copy_(base.float() + part.signs() * log.exp())
            live.grad = None
        logits = head.logits([texts[i] for i in batch.tolist()])
        divergences(wanted[batch].to(logits.device), logits).mean().backward()  # type: ignore[no-untyped-call]
        slopes = [(live.grad.cpu() * part.signs()).sum() for live, _, part in weights if live.grad is not None]
        logs.grad = torch.stack(slopes) * logs.exp()
        optimizer.step()


def _draw(n: int, batch_size: int, epochs: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.split(torch.randperm(n, generator=generator), batch_size)
