"""The classifier head: transformers' own sequence classification, its new layer stored dense in the patch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from graft.errors import CheckpointError, DataError
from graft.sources.made_checkpoint import folder_of
from graft.specs.task import TaskSpec
from graft.tasks.batches import Encoded, position_tables, run_model, split_by_end
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tasks.label_order import RowNames, Rows, find_rows, has_head, read_rows
from graft.tasks.loading import load_model, load_tokenizer, tell
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.new_weights import mark_new


class ClassifierHead(Head):
    """Logits by AutoModelForSequenceClassification.

    Attributes:
        rows: for each of the task's labels, its row of the head; in the task's order where absent.
    """

    def __init__(self, model: Any, tokenizer: Any, task: TaskSpec, rows: Sequence[int] | None = None) -> None:
        super().__init__(model, tokenizer, task)
        in_order = list(range(len(task.labels)))
        self.rows = in_order if rows is None else list(rows)
        self._reorders = self.rows != in_order
        # an XLNet classifies at the last position, padding or not; its positions are relative
        self._side: Any = "left" if model.config.model_type == "xlnet" else "right"
        _agree_on_padding(model, tokenizer.pad_token_id)
        if model.config.is_encoder_decoder:
            _check_end(model.config, tokenizer)

    @classmethod
    def load(
        cls, model: Path | Checkpoint, task: TaskSpec, dtype: Any, *, rows: RowNames | None = None, renew: bool = False
    ) -> ClassifierHead:
        """Load a folder; a head that it lacks is initialized at random, under the seed that is set.

        Args:
            model: a local model folder, or a checkpoint.
            task: the task.
            dtype: a torch dtype or "auto".
            rows: the labels of the head's rows as something other than the folder gives them.
            renew: make a new head, and say so, where that of the folder is for other labels.

        Raises:
            CheckpointError: the folder cannot be loaded, or its head is for other labels.
        """
        from transformers import AutoModelForSequenceClassification

        path = folder_of(model)
        own, refusal = _own_rows(path, task, rows, renew)
        head_rows = own or _rows_of_new_head(task, rows)
        labels: dict[str, Any] = {"id2label": dict(enumerate(head_rows.names))}
        labels["label2id"] = {name: row for row, name in enumerate(head_rows.names)}
        kind = AutoModelForSequenceClassification
        if own is None and has_head(path):  # in its own size first, so that no other tensor may differ unnoticed
            loaded, lacking = load_model(kind, model, dtype, may_lack=_is_head)
            _make_room(loaded, len(head_rows.names))
            vars(loaded.config).update(labels)
        else:
            labels["num_labels"] = len(head_rows.names)
            loaded, lacking = load_model(kind, model, dtype, may_lack=_is_head, **labels)
        if refusal is not None:
            _renew_head(loaded)
            lacking += _head_weights(loaded)
            tell(f"note: a new head is made for {', '.join(task.labels)}: {refusal}")
        mark_new(loaded, lacking)
        head = cls(loaded, load_tokenizer(model), task, head_rows.order)
        if head._reorders:
            listed = f"{', '.join(head_rows.names)} in {head_rows.where}, {', '.join(task.labels)} in the task"
            tell(f"note: labels are matched by name, since their orders differ: {listed}")
        return head

    def logits_of(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """Return (n, n_labels) fp32 logits.

        Raises:
            DataError: an encoder-decoder reads the class at the end token, and a text has none.
        """
        batch = self.pad_encoded(rows, self._side)
        logits: torch.Tensor
        if self.model.config.is_encoder_decoder:
            logits = self._logits_at_end(batch)
        else:
            logits = run_model(self.model, batch).logits
        return (logits[:, self.rows] if self._reorders else logits).float()

    def inputs(self, examples: Sequence[Example]) -> list[dict[str, torch.Tensor]]:
        """Return one batch: the texts, or pairs of texts."""
        return [self.pad_encoded(self.read(examples), self._side)]

    def _logits_at_end(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return (n, n_labels) logits of an encoder-decoder, which takes texts with equally many end tokens at once."""
        ids, end = batch["input_ids"], self.model.config.eos_token_id
        counts = (ids == end).sum(1)
        if not bool(counts.all()):
            text = self.tokenizer.decode(ids[counts.argmin()], skip_special_tokens=True)
            raise DataError(f"{text[:40]!r}: the tokenizer puts no end token, at which this model reads the class")
        parts = split_by_end(ids, end)
        logits = [run_model(self.model, {name: rows[part] for name, rows in batch.items()}).logits for part in parts]
        return torch.cat(logits)[torch.cat(parts).argsort()]


def _own_rows(
    path: Path, task: TaskSpec, rows: RowNames | None, renew: bool
) -> tuple[Rows | None, CheckpointError | None]:
    """Return the rows of the folder's own head, or None and, where a new head replaces it, the error that says why."""
    if rows is not None and rows.replaces:
        return None, None
    try:
        return read_rows(path, task.labels, rows), None
    except CheckpointError as error:
        if not renew:
            raise CheckpointError(
                f"{error}: give the task the same labels, or train, which makes a new head"
            ) from error
        return None, error


def _rows_of_new_head(task: TaskSpec, rows: RowNames | None) -> Rows:
    """Return the rows of a head that the folder lacks: in the task's order unless a patch brings them."""
    if rows is None:
        return Rows(task.labels, tuple(range(len(task.labels))), "the task")
    return Rows(rows.names, find_rows(rows.names, task.labels, rows.where), rows.where)


def _make_room(model: Any, n_rows: int) -> None:
    """Replace the last layer of the head by one of another size, where it has one."""
    if model.config.num_labels != n_rows:
        layers = [part for part in _head_parts(model) if isinstance(part, torch.nn.Linear)]
        outputs = [layer for layer in layers if layer.out_features == model.config.num_labels]
        if not outputs:
            raise CheckpointError(f"{type(model).__name__} has no last layer that could be made for {n_rows} labels")
        last = outputs[-1]
        new = torch.nn.Linear(last.in_features, n_rows, last.bias is not None, dtype=last.weight.dtype)
        owner = next(part for part in model.modules() if last in part.children())
        setattr(owner, next(name for name, part in owner.named_children() if part is last), new)
        model.num_labels = n_rows
    if model.config.problem_type is not None:
        model.config.problem_type = "single_label_classification"


def _renew_head(model: Any) -> None:
    """Initialize every layer outside the base model anew, under the seed that is set."""
    for part in _head_parts(model):
        for weight in part.parameters(recurse=False):
            weight._is_hf_initialized = False  # else transformers takes it for loaded, and leaves it
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
        model._init_weights(part)


def _head_weights(model: Any) -> list[str]:
    base = f"{model.base_model_prefix}."
    return [name for name, _ in model.named_parameters() if not name.startswith(base)]


def _head_parts(model: Any) -> list[Any]:
    base: Any = model.base_model
    return [part for child in model.children() if child is not base for part in child.modules()]


def _agree_on_padding(model: Any, pad: int) -> None:
    """Set a decoder's padding token to the tokenizer's, since it classifies at the last token before the padding.

    Models like RoBERTa count positions from their own padding token, which stays: a saved folder must load as before.
    """
    if all(table.padding_idx is None for table in position_tables(model)):
        for config in (model.config, model.config.get_text_config()):
            config.pad_token_id = pad


def _check_end(config: Any, tokenizer: Any) -> None:
    for key in ("eos_token_id", "decoder_start_token_id"):
        if not isinstance(getattr(config, key, None), int):
            raise CheckpointError(f"the config of this encoder-decoder has no {key}, and its classifier needs one")
    if config.eos_token_id == tokenizer.pad_token_id:
        raise CheckpointError(
            "the tokenizer pads with the end token, at which this encoder-decoder reads the class: give it another"
        )


def _is_head(prefix: str, name: str) -> bool:
    """Return whether a weight is of the new layer, or of the pooler before it, which other models lack."""
    return not name.startswith(f"{prefix}.") or name.startswith(f"{prefix}.pooler.")
