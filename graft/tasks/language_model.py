"""Masked and causal language models, told apart by the architecture that a folder's config names."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

import torch

from graft.errors import CheckpointError
from graft.files.model_config import architecture_in
from graft.sources.made_checkpoint import folder_of
from graft.tasks.batches import run_model
from graft.tasks.loading import load_model, load_pretrained, load_tokenizer
from graft.tensors.checkpoint import Checkpoint

Family = Literal["masked", "causal"]


def family_of(path: Path) -> Family | None:
    """Return the family of the first architecture in the config; None where it predicts no tokens.

    Raises:
        CheckpointError: the folder has no config that transformers can read.
    """
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    load_pretrained(AutoConfig, path)  # refuses a folder without a config that it knows
    named = architecture_in(path)
    if named in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values():
        return "masked"
    return "causal" if named in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() else None


def load_language_model(model: Path | Checkpoint, dtype: Any, *, only: Family | None = None) -> tuple[Any, Any, Family]:
    """Load model, tokenizer and family.

    Args:
        model: a local model folder, or a checkpoint.
        dtype: a torch dtype or "auto".
        only: the family that the head needs; either where absent.

    Raises:
        CheckpointError: the folder cannot be loaded, or its model is not of that family, and its output layer would be
            drawn at random.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    path = folder_of(model)
    family = family_of(path)
    if family is None or only not in (None, family):
        wanted = f"{only or 'masked or causal'} language model"
        raise CheckpointError(f"{path}: this head needs a {wanted}, and the config's architecture is none")
    kind = AutoModelForMaskedLM if family == "masked" else AutoModelForCausalLM
    return load_model(kind, model, dtype)[0], load_tokenizer(model), family


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return -ln p of each target, (n, m), from logits (n, m, vocabulary) and targets (n, m) int64; gradients flow."""
    # flattened to (n * m, vocabulary): with the vocabulary in another dimension it takes three times as long on the CPU
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nll.view_as(targets)


def logits_at(model: Any, batch: dict[str, torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
    """Return a causal model's logits (n, m, vocabulary) at `positions` (m,) int64; gradients flow.

    The output layer is the widest of a small model: where the model accepts positions, only these are computed.
    """
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted else {}
    if "logits_to_keep" not in accepted:
        logits: torch.Tensor = run_model(model, batch, **options).logits[:, positions]
    else:
        logits = run_model(model, batch, **options, logits_to_keep=positions).logits
    return logits
