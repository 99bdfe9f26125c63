"""Masked and causal language models, told apart by the architecture that a folder's config names."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from graft.errors import CheckpointError
from graft.files.model_config import architecture_in
from graft.sources.made_checkpoint import folder_of
from graft.tasks.batches import run_model
from graft.tasks.causality import refuse_two_way
from graft.tasks.loading import load_model, load_pretrained, load_tokenizer
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import NARROW

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
            drawn at random; or it is of a causal class, and sees later tokens (`graft.tasks.causality`).
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    path = folder_of(model)
    family = family_of(path)
    if family is None or only not in (None, family):
        wanted = f"{only or 'masked or causal'} language model"
        raise CheckpointError(f"{path}: this head needs a {wanted}, and the config's architecture is none")
    kind = AutoModelForMaskedLM if family == "masked" else AutoModelForCausalLM
    loaded = load_model(kind, model, dtype)[0]
    if family == "causal":
        refuse_two_way(loaded)
    return loaded, load_tokenizer(model), family


def logits_of(
    model: Any,
    batch: dict[str, torch.Tensor],
    tokens: torch.Tensor,
    *,
    words: torch.Tensor | None = None,
    own: torch.Tensor | None = None,
    cache: Any = None,
    whole: bool = False,
) -> torch.Tensor:
    """Return a model's logits at some tokens of a batch, (m, vocabulary) or (m, words); gradients flow.

    The output layer is the widest of a small model: it is given the states of these tokens alone. Where products are
    in bf16 or fp16, those of a few words are summed up in fp32: logits between 8 and 16 would be 1/16 apart, so that
    words tie, and which of them is the most probable would be the order of labels or choices. Among the whole
    vocabulary it is one word a token, so that no logit depends on what other rows of the batch ask for.

    Args:
        model: a masked or causal language model.
        batch: its inputs, (n, width) each.
        tokens: (m,) int64 on the CPU, row * width + position; one may come several times.
        words: (n_words,) int64, the tokens whose logits are wanted; the whole vocabulary where absent.
        own: without words, (m,) int64, the word of each token whose logit will be compared with others.
        cache: keys and values of what each row has read before.
        whole: the output layer is given all states and gives all words in its own dtype, as where rows change it.

    Raises:
        CheckpointError: the model predicts fewer tokens than a word's id.
    """
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted else {}
    if cache is not None:
        options["past_key_values"] = cache
    layer = None if whole else model.get_output_embeddings()
    with (
        _narrowed_output(layer, batch["input_ids"].shape, tokens) as is_narrowed,
        _widened_output(model, layer, words, own) as wide,
    ):
        logits: torch.Tensor = run_model(model, batch, **options).logits
    logits = logits[0] if is_narrowed else logits.flatten(0, 1).index_select(0, tokens.to(logits.device))
    if words is None or wide:
        return logits
    _require_words(words, logits.shape[1])
    return logits[:, words.to(logits.device)]


def _require_words(words: torch.Tensor, n_predicted: int) -> None:
    if int(words.max()) >= n_predicted:
        raise CheckpointError(
            f"the tokenizer has a word of the head at {int(words.max())}, and the model predicts {n_predicted} tokens: "
            "it is another model's"
        )


@contextlib.contextmanager
def _narrowed_output(layer: Any, shape: torch.Size, tokens: torch.Tensor) -> Iterator[list[bool]]:
    """Let the output layer see these tokens' states alone, as one row; yield a list that is empty where it cannot.

    A model may reach its output weights without calling the layer, or call it on something else than all states.
    """
    is_narrowed: list[bool] = []

    def narrow(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Hand the layer the states of these tokens; None leaves its inputs as they are."""
        states = inputs[0] if inputs else None
        if not torch.is_tensor(states) or states.ndim != 3 or states.shape[:2] != shape:
            return None
        is_narrowed.append(True)
        return (states.flatten(0, 1).index_select(0, tokens.to(states.device)).unsqueeze(0), *inputs[1:])

    hook = layer.register_forward_pre_hook(narrow) if isinstance(layer, torch.nn.Module) else None
    try:
        yield is_narrowed
    finally:
        if hook is not None:
            hook.remove()


@contextlib.contextmanager
def _widened_output(
    model: Any, layer: Any, words: torch.Tensor | None, own: torch.Tensor | None = None
) -> Iterator[list[bool]]:
    """Let a narrow output layer give logits in fp32; yield a list that is empty where it does not.

    These are the logits of some words alone, or, with one word of its `own` a token, of all words, that one's summed
    up in fp32. The model still does with them what it does with logits, such as to scale or cap them. Under autocast
    the weights are rounded as the layer would round them, so that what trains is what will be saved.
    """
    is_widened: list[bool] = []
    chosen = own if words is None else words

    def widen(_: Any, inputs: tuple[Any, ...], narrow_logits: torch.Tensor) -> torch.Tensor | None:
        """Return the logits in fp32; None leaves the layer's own."""
        states, device = inputs[0], layer.weight.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.weight.dtype
        assert chosen is not None
        if narrow not in NARROW or (words is None and states.shape[:2] != (1, len(chosen))):
            return None
        _require_words(chosen, len(layer.weight))
        is_widened.append(True)
        rows = chosen.to(layer.weight.device)
        weight, bias = layer.weight[rows].to(narrow).float(), None if layer.bias is None else layer.bias[rows].float()
        with torch.autocast(device, enabled=False):
            if words is not None:
                return torch.nn.functional.linear(states.float(), weight, bias)
            exact = (states.float() * weight).sum(-1) + (0.0 if bias is None else bias)  # (1, m)
            return narrow_logits.float().scatter(-1, rows[None, :, None], exact[..., None])

    # a subclass, such as an adapter's or a quantized one, knows more than its weight; a shard does not hold all rows
    can_widen = chosen is not None and type(layer) is torch.nn.Linear and type(layer.weight) is torch.nn.Parameter
    can_widen = can_widen and not hasattr(model, "final_logits_bias")  # BART and its kin add one of all words to these
    hook = layer.register_forward_hook(widen) if can_widen else None
    try:
        yield is_widened
    finally:
        if hook is not None:
            hook.remove()
