"""A head that a skill brings with it, run on what the resident model's backbone gives."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch

from graft.errors import ConfigError, PatchMismatchError
from graft.mixture.rows import count_rows
from graft.patch.head_config import head_settings
from graft.patch.live import LiveTarget
from graft.patch.skill_patch import Patch
from graft.tasks.batches import run_model, split_by_end

_PADDING = -1  # what a head is shown in the place of padding, whatever token pads: no text holds it


class CarriedHead:
    """The head of a sequence classifier, without its backbone, from the whole tensors of a patch.

    Args:
        model: the resident model, of transformers.
        patch: brings the head's tensors, and says of which architecture it is.

    Attributes:
        labels: in the order of the logits.

    Raises:
        PatchMismatchError: the patch does not say so, or its tensors are not those of that head on this model.
    """

    def __init__(self, model: torch.nn.Module, patch: Patch) -> None:
        architecture, self.labels, settings = head_settings(patch.provenance.task)
        kind = _class_of(model, architecture)
        config = copy.deepcopy(getattr(model, "config"))  # noqa: B009  # of transformers' models alone
        config.num_labels = len(self.labels)
        recorded = settings.pop("pad_token_id", getattr(config.get_text_config(), "pad_token_id", None))
        self._pad = recorded if type(recorded) is int else None
        for key, value in settings.items():
            setattr(config, key, value)
        with torch.device("meta"):
            self._head = kind(config).eval()
        self._backbone = _Given()
        setattr(self._head, kind.base_model_prefix, self._backbone)
        device = next(model.parameters()).device
        tensors = {name: tensor.to(device) for name, tensor in patch.dense.items()}
        try:
            self._head.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            raise PatchMismatchError(f"the patch's head is not that of {architecture} on this model") from error
        self._config = self._head.config
        for part in (self._config, self._config.get_text_config()):
            part.pad_token_id = _PADDING
        floats = [tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()]
        self._dtype = functools.reduce(torch.promote_types, floats, getattr(model, "dtype"))  # noqa: B009
        self._head.to(self._dtype)

    def logits(self, output: Any, batch: dict[str, Any], pad: int | None = None) -> torch.Tensor:
        """Return (n, n_labels) logits, a row's the same whatever rows and padding are beside it.

        Args:
            output: what the backbone gives for n rows.
            batch: of the same rows, its arguments.
            pad: the token that pads; the one that the patch records where absent.

        Raises:
            DataError: this is an encoder-decoder's head, and a row has no end token.
            CheckpointError: as `run_model`.
        """
        output = type(output)(**{key: self._cast(value) for key, value in output.items()})
        batch = self._mark_padding(batch, self._pad if pad is None else pad)
        if not self._config.is_encoder_decoder:
            return self._run(output, batch)
        parts = split_by_end(batch["input_ids"], self._config.eos_token_id)
        n_rows = len(batch["input_ids"])
        found = [
            self._run(type(output)(**take_rows(output, part, n_rows)), take_rows(batch, part, n_rows))
            for part in (rows.tolist() for rows in parts)
        ]
        return torch.cat(found)[torch.cat(parts).argsort()]

    def _run(self, output: Any, batch: dict[str, Any]) -> torch.Tensor:
        self._backbone.output = output
        logits: torch.Tensor = run_model(self._head, batch).logits
        return logits

    def _cast(self, value: Any) -> Any:
        """Return states in the dtype of the head, the wider one of its own and the model's."""
        return value.to(self._dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def _mark_padding(self, batch: dict[str, Any], pad: int | None) -> dict[str, Any]:
        """Return a batch in whose token ids all padding is `_PADDING`: a decoder's head reads the last other token.

        That is what the mask leaves out, and the token that pads at the end of a text, as in evaluation.
        """
        ids, mask = batch.get("input_ids"), batch.get("attention_mask")
        if ids is None and mask is not None:
            ids, pad = mask.long(), None  # embeddings were given: any token will do
        if ids is None:
            return batch
        is_padding = torch.zeros_like(ids, dtype=torch.bool)
        if mask is not None and mask.shape == ids.shape:
            is_padding |= mask == 0
        if pad is not None and not self._config.is_encoder_decoder:
            is_padding |= ids == pad
        return {**batch, "input_ids": ids.masked_fill(is_padding, _PADDING)}


class _Given(torch.nn.Module):
    """A backbone that gives what it is told to."""

    output: Any

    def forward(self, *args: object, **kwargs: object) -> Any:
        return self.output


def lacks_head(model: torch.nn.Module, patch: Patch) -> bool:
    """Return whether a patch brings whole tensors that a model lacks."""
    whole = [name for name in patch.dense if name not in patch.provenance.grown]
    return bool(whole) and bool(LiveTarget(model).match(whole).missing)


def run_with_heads(
    backbone: torch.nn.Module, heads: Sequence[CarriedHead], batch: dict[str, Any], pad: int | None = None
) -> list[torch.Tensor]:
    """Run a backbone once, and return the logits of each row by its own head, (n_labels,) each.

    Args:
        backbone: of the model that the heads are for.
        heads: one a row, or a row before it was multiplied.
        batch, pad: as in `CarriedHead.logits`.

    Raises:
        ConfigError: the batch has another number of rows.
        DataError, CheckpointError: as `CarriedHead.logits`.
    """
    n_rows = count_rows((), batch)
    if not heads or n_rows % len(heads):
        raise ConfigError(f"the batch has {n_rows} rows, but heads were named for {len(heads)}")
    owners = [head for head in heads for _ in range(n_rows // len(heads))]
    output, logits = run_model(backbone, batch), [torch.empty(0)] * n_rows
    for head in dict.fromkeys(heads):
        rows = [row for row, own in enumerate(owners) if own is head]
        given = type(output)(**take_rows(output, rows, n_rows))
        for row, found in zip(rows, head.logits(given, take_rows(batch, rows, n_rows), pad), strict=True):
            logits[row] = found
    return logits


def take_rows(values: Any, rows: list[int], n_rows: int) -> dict[str, Any]:
    """Return of each tensor among a mapping's values that has as many rows only some, and the others as they are."""
    index = torch.tensor(rows)
    return {
        key: value.index_select(0, index.to(value.device))
        if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == n_rows
        else value
        for key, value in values.items()
    }


def _class_of(model: torch.nn.Module, architecture: str) -> Any:
    """Return transformers' class of a name, where it is that of a sequence classifier of the model's kind."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    kind = getattr(getattr(model, "config", None), "model_type", None)
    if not kind or KNOWN.get(kind) != architecture:
        raise PatchMismatchError(
            f"the patch brings a head of {architecture or 'no known architecture'}, which is no sequence classifier "
            f"of a {kind or 'model without a config'}"
        )
    return getattr(transformers, architecture)
