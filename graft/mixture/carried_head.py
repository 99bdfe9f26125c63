"""A head that a skill brings with it, run on what the resident model's backbone gives."""

from __future__ import annotations

import copy
from typing import Any

import torch

from graft.errors import PatchMismatchError
from graft.patch.head_config import head_settings
from graft.patch.live import LiveTarget
from graft.patch.skill_patch import Patch


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

    def logits(self, output: Any, batch: dict[str, Any]) -> torch.Tensor:
        """Return (n, n_labels) logits.

        Args:
            output: what the backbone gives for n rows.
            batch: of the same rows, its arguments.
        """
        self._backbone.output = output
        logits: torch.Tensor = self._head(**batch).logits
        return logits


class _Given(torch.nn.Module):
    """A backbone that gives what it is told to."""

    output: Any

    def forward(self, *args: object, **kwargs: object) -> Any:
        return self.output


def lacks_head(model: torch.nn.Module, patch: Patch) -> bool:
    """Return whether a patch brings whole tensors that a model lacks."""
    whole = [name for name in patch.dense if name not in patch.provenance.grown]
    return bool(whole) and bool(LiveTarget(model).match(whole).missing)


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
