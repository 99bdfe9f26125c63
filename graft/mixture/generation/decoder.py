"""Decoder: a language model of transformers, run on rows of different lengths, and which models can be."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from graft.errors import ConfigError
from graft.mixture.drawn_texts import draw_texts
from graft.mixture.generation.row_cache import RowCache, stack_rows
from graft.mixture.mixed_model import MixedModel
from graft.mixture.trial import trial_of
from graft.tasks.batches import first_position, longest_input
from graft.tensors.out_of_memory import is_out_of_memory

_LONG, _SHORT = 6, 2  # tokens of the rows on which a model is tried


class Decoder:
    """A model that reads tokens after those whose keys and values are kept.

    Args:
        model: a decoder of transformers, all of whose layers attend to all tokens before.

    Attributes:
        max_length: tokens that it can read; None where it names no such number.
        n_words: of its vocabulary.
        n_layers: that keep keys and values.

    Raises:
        ConfigError: it is another kind of model.
    """

    def __init__(self, model: Any) -> None:
        refuse_unsupported(model)
        self.model = model
        self._config = model.config.get_text_config(decoder=True)
        self.max_length = longest_input(model)
        self._first = first_position(model)
        self.n_words: int = model.get_input_embeddings().weight.shape[0]
        self.n_layers = len(self._open(RowCache()).layers)
        self._parameters = inspect.signature(model.forward).parameters
        if reason := self._try_out():
            raise _refusal(model, reason)

    @classmethod
    def of(cls, mixed: MixedModel) -> Decoder:
        """Open the model of a mixed one; rows without a skill try it out."""
        with mixed.skills([None]):
            return cls(mixed.model)

    def check(self, tokens: Sequence[int], n_new: int = 0) -> None:
        """Refuse tokens that the model cannot read, or go on from by so many.

        Raises:
            ConfigError: they are too many, or one is not in the vocabulary.
        """
        if self.max_length is not None and len(tokens) + n_new > self.max_length:
            new = f" and {n_new} new ones" if n_new else ""
            raise ConfigError(f"{len(tokens)} tokens{new} are more than the {self.max_length} that the model reads")
        if not all(0 <= token < self.n_words for token in tokens):
            raise ConfigError(f"a token is not in the model's vocabulary of {self.n_words}")

    @torch.inference_mode()
    def run(self, tokens: Sequence[Sequence[int]], past: RowCache) -> tuple[torch.Tensor, RowCache]:
        """Read further tokens of every row.

        Args:
            tokens: of each row at least one; a row with fewer than others is padded on the left, and so must have none
                in `past`.
            past: of the same rows.

        Returns:
            (rows, vocabulary) logits after each row's last token; the rows' keys and values, the new ones among them.

        Raises:
            ConfigError: the model is in training mode, in which its outputs are random.
        """
        if self.model.training:
            raise ConfigError("the model is in training mode: call its eval() before it generates")
        device, width = self.model.device, max(map(len, tokens))
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in tokens], device=device)
        lengths = tuple(length + len(row) for length, row in zip(past.lengths, tokens, strict=True))
        places = torch.arange(past.width + width, device=device)
        starts = len(places) - torch.tensor(lengths, device=device)[:, None]
        cache = self._open(past)
        inputs = {
            "attention_mask": (places >= starts).long(),
            "position_ids": (places[past.width :] - starts).clamp_(min=0) + self._first,
            "logits_to_keep": 1,
        }
        inputs = {name: value for name, value in inputs.items() if name in self._parameters}
        logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **inputs).logits[:, -1]
        return logits, RowCache(lengths, tuple((layer.keys, layer.values) for layer in cache.layers))

    def _try_out(self) -> str | None:
        """Read a short row beside a longer one, and say what is wrong where it is not read as it is alone."""
        texts = draw_texts(self.model, 2, min(_LONG, (self.max_length or 2 * _LONG) // 2) + 1)
        if texts is None or (n_long := texts["input_ids"].shape[1] - 1) <= _SHORT:
            return None
        long, short = (ids[:n].tolist() for ids, n in zip(texts["input_ids"], (n_long, _SHORT), strict=True))
        none = RowCache((0,))
        try:
            with trial_of(self.model):
                _, joint = self.run([long[:-1], short[:-1]], RowCache((0, 0)))
                if len(joint.layers) < self.n_layers or any(part is None for layer in joint.layers for part in layer):
                    return "keeps no keys and values"
                # read together, and read apart and then put under each other
                stacked = stack_rows([self.run([row[:-1]], none)[1] for row in (long, short)])
                beside = [self.run([long[-1:], short[-1:]], past)[0] for past in (joint, stacked)]
                alone = torch.cat([self.run([row], none)[0] for row in (long, short)])
                # what it comes to where padding is read: how much is much is another thing for every model
                padded = torch.cat([self.run([[0] * n_long + row], none)[0] for row in (long, short)])
        except Exception as error:  # of many kinds: a cache or a mask that the model does not know
            if is_out_of_memory(error):
                raise
            return f"cannot be run on rows of different lengths ({' '.join(str(error).split())[:100]})"
        eps = torch.finfo(alone.dtype).eps
        rounding = 4 * eps * alone.float().abs().mean(1) + min(0.25, 4 * eps**0.5) * _distance(padded, alone)
        wrong = any((_distance(found, alone) > rounding).any() for found in beside)
        return "reads a row in another way beside a longer one" if wrong else None

    def _open(self, past: RowCache) -> Any:
        """Return transformers' form of a cache, which the model extends without writing into the tensors of ours."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self._config)
        for layer, (keys, values) in zip(cache.layers, past.layers, strict=False):
            layer.dtype, layer.device = keys.dtype, keys.device
            layer.keys, layer.values, layer.is_initialized = keys, values, True
        return cache


def _distance(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return (found.float() - wanted.float()).abs().mean(1)


def refuse_unsupported(model: Any) -> None:
    """Refuse a model whose rows cannot be of different lengths, or which keeps something else than keys and values.

    Raises:
        ConfigError: saying what it is.
    """
    if reason := _why_unsupported(model):
        raise _refusal(model, reason)


def _refusal(model: Any, reason: str) -> ConfigError:
    return ConfigError(f"{type(model).__name__} {reason}: its skills can be grafted and generate one by one")


def _why_unsupported(model: Any) -> str | None:
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if not (callable(getattr(model, "can_generate", None)) and model.can_generate()):
        return "does not generate"
    if model.config.is_encoder_decoder:
        return "has an encoder beside its decoder"
    if getattr(model, "_is_stateful", False) or not model._supports_default_dynamic_cache():
        return "keeps states other than keys and values"
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    if other := next((layer for layer in layers if type(layer) is not DynamicLayer), None):
        return f"has layers that do not keep all tokens ({type(other).__name__})"
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        return "reads tokens in both directions"
    scalings = " ".join(str(getattr(module, "rope_type", "")) for module in model.modules())
    if "dynamic" in scalings or "longrope" in scalings:
        return "scales positions by the longest row of a batch"
    return None
