"""What others take for the same rows: transformers' Trainer for a step, lm-evaluation-harness for a pass."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch


def trainer_steps(head: Any, optimizer: torch.optim.Optimizer, bare: Any, is_mixed: bool) -> Callable[[], object]:
    """One step of transformers' Trainer on a batch, with the same weights and optimizer.

    Its own loop costs more than the step in it, which it is spared: `training_step` is forward and backward, and the
    rest of a step is what its loop does.
    """
    from transformers import Trainer, TrainingArguments

    more = {"bf16": is_mixed, "use_cpu": head.device.type == "cpu", "report_to": [], "disable_tqdm": True}
    trainer = Trainer(head.model, TrainingArguments(tempfile.gettempdir(), **more), optimizers=(optimizer, None))  # type: ignore[arg-type]
    trainer.current_gradient_accumulation_steps = 1  # which its loop would set
    labels = torch.full_like(bare.batch["input_ids"], -100).flatten()
    width = bare.batch["input_ids"].shape[1]
    at_end = bare.places % width == width - 1  # where the batch ends no token follows: one more column holds it
    inputs = dict(bare.batch)
    if bool(at_end.any()):
        inputs = {name: torch.nn.functional.pad(part, (0, 1)) for name, part in inputs.items()}
        labels = torch.full_like(inputs["input_ids"], -100).flatten()
    row, place = bare.places // width, bare.places % width
    labels[row * inputs["input_ids"].shape[1] + place + 1] = bare.targets
    inputs["labels"] = labels.view_as(inputs["input_ids"])

    def step() -> None:
        trainer.training_step(head.model, dict(inputs))
        trainer.accelerator.clip_grad_norm_(head.model.parameters(), 1.0)
        optimizer.step()
        head.model.zero_grad()

    return step


def harness_scores(head: Any, texts: Sequence[tuple[list[int], int]], batch_size: int) -> Callable[[], object] | None:
    """A pass of lm-evaluation-harness over choices, or nothing where it is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        return None
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=head.model, tokenizer=head.tokenizer, batch_size=batch_size)
    requests = [(("", ""), ids[:start], ids[start:]) for ids, start in texts]
    return lambda: model._loglikelihood_tokens(requests, disable_tqdm=True)
