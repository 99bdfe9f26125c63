"""Heads: a loaded model as a function from examples to logits over a task's labels."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm import tqdm

from graft.errors import CheckpointError, ConfigError
from graft.parallel.launch import find_ranks
from graft.parallel.ranks import Ranks
from graft.parallel.sharded import is_sharded, shard_weights
from graft.sources.made_checkpoint import MadeCheckpoint, folder_of
from graft.sources.opening import open_folder
from graft.specs.runtime import DEFAULT, Engine, Runtime
from graft.specs.task import TaskSpec
from graft.tasks.batches import (
    Encoded,
    Side,
    Texts,
    embedded_tokens,
    encode_texts,
    longest_input,
    pad_encoded,
    pad_tokens,
)
from graft.tasks.cuts import tell_cut
from graft.tasks.examples import Example, order_by_length
from graft.tasks.label_order import RowNames
from graft.tasks.padded_logits import are_finite
from graft.tasks.placement import checkpoint_layers, find_device, find_dtype, place_model, speed_up_products
from graft.tensors.checkpoint import Checkpoint

ENGINES: tuple[str, ...] = get_args(Engine)
_PART = 256  # examples whose tokens are counted at once


@dataclass(frozen=True, eq=False)
class Outputs:
    """The distributions that a head predicts for some examples, with their shares in the mean loss.

    The loss of `Head.loss` is the sum over rows of share x cross-entropy.

    Attributes:
        logits: (m, width) fp32; one row per example, or per predicted token; gradients flow.
        shares: (m,) fp32, sum 1.
    """

    logits: torch.Tensor
    shares: torch.Tensor


class Head(ABC):
    """A loaded model with its tokenizer and a way to compute a task's logits from it.

    Attributes:
        model: the transformers model, which is trained, localized and grafted.
        tokenizer: its tokenizer, with a padding token.
        task: the content of the TASK file.
        ranks: the processes that share this head's work; alone unless `spread_head` says otherwise.
        shards_of: the dtype of weights whose shards `spread_head` has made fp32; None where it has not.
    """

    ranks = Ranks()
    shards_of: torch.dtype | None = None
    predicts_tokens = False  # where it does, outputs are as wide as the vocabulary, and too many to keep

    def __init__(self, model: Any, tokenizer: Any, task: TaskSpec) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.task = task
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise CheckpointError("the tokenizer has no padding token, nor one for the end that could stand for it")
        if not (isinstance(tokenizer.model_max_length, (int, float)) and tokenizer.model_max_length > 0):
            raise CheckpointError(f"the tokenizer's model_max_length is no number: {tokenizer.model_max_length!r:.60}")
        self._positions = longest_input(model)

    @classmethod
    @abstractmethod
    def load(
        cls, model: Path | Checkpoint, task: TaskSpec, dtype: Any, *, rows: RowNames | None = None, renew: bool = False
    ) -> Head:
        """Load a model for this kind of head.

        Args:
            model: a local model folder; or a checkpoint, beside whose path config and tokenizer lie.
            task: the task.
            dtype: a torch dtype or "auto".
            rows, renew: of a layer of the head's own, as in `open_head`; a head without one ignores them.

        Raises:
            CheckpointError: the folder cannot be loaded, or its model is of another kind.
            ConfigError: the task's words or template do not fit the tokenizer.
        """

    @classmethod
    def on(cls, head: Head, task: TaskSpec) -> Head:
        """Make a head of this kind for a task on the model and tokenizer of another."""
        return cls(head.model, head.tokenizer, task)

    @property
    def kind_of_model(self) -> str:
        """The kind of the model at hand, one of those that the registry has for the head."""
        return self.task.head.entry.models[0]

    @property
    def device(self) -> torch.device:
        """Device of the model's first parameter."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def limit(self) -> int:
        """Longest input in tokens: the least of the task's, the tokenizer's and the model's."""
        longest = min(self.task.max_length, self.tokenizer.model_max_length)  # 10^30 where a tokenizer knows none
        return int(longest if self._positions is None else min(longest, self._positions))

    @property
    def has_classes(self) -> bool:
        """True where column c of the logits is the same class in every row, so that it can have an offset."""
        return self.task.has_classes

    def read(self, examples: Sequence[Example]) -> list[Any]:
        """Return examples as tokens, each with `is_cut`: whether the limit leaves out a part of it. Here, its texts."""
        return self.encode([example.texts for example in examples])

    @abstractmethod
    def logits_of(self, rows: Sequence[Any]) -> torch.Tensor:
        """Return (n, n_labels) fp32 logits of what `read` returned; gradients flow. Rows of fewer choices end in -inf.

        Raises:
            ConfigError: the head has no labels.
        """

    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return (n, n_labels) fp32 logits; gradients flow. Rows with fewer choices than others end in -inf."""
        return self.logits_of(self.read(examples))

    def inputs(self, examples: Sequence[Example]) -> list[dict[str, torch.Tensor]]:
        """Return what the model reads of examples, as padded batches on its device: template, chat and answers too.

        Each row is there in full, also where `logits` reads what rows have in common once. A row may be several texts,
        such as one for each choice; label texts that are the same for all rows are left out. Here it is the texts.
        """
        return [self.tokenize([example.texts for example in examples])]

    def outputs(self, examples: Sequence[Example]) -> Outputs:
        """Return the predicted distributions of examples, each with the same share."""
        logits = self.logits(examples)
        return Outputs(logits, logits.new_full((len(examples),), 1 / len(examples)))

    def with_outputs(self, examples: Sequence[Example]) -> list[Example]:
        """Return the examples of which `outputs` has a row: all, unless tokens are predicted and there is none."""
        return list(examples)

    def count_cut(self, examples: Sequence[Example]) -> int:
        """Return of how many examples the limit leaves out a part."""
        parts = (examples[start : start + _PART] for start in range(0, len(examples), _PART))
        return sum(row.is_cut for part in parts for row in self.read(part))

    def inspect(self, examples: Sequence[Example], name: str = "examples") -> Any:
        """Say on stderr what of a set of examples, which goes by a name, a head cannot use as it is: what is cut."""
        tell_cut(self, self.count_cut(examples), examples, name)

    def loss(self, examples: Sequence[Example], offsets: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean cross-entropy in nats, a scalar; `offsets` (n_labels,) are added to the logits."""
        labels = torch.tensor([example.label for example in examples], device=self.device)
        logits = self.logits(examples)
        return torch.nn.functional.cross_entropy(logits if offsets is None else logits + offsets, labels)

    def weigh(self, examples: Sequence[Example]) -> int:
        """Return the weight that the loss of these examples has in a mean over several batches: how many there are."""
        return len(examples)

    def share(self, part: Sequence[Example], whole: Sequence[Example]) -> float:
        """Return the factor of a part's loss in the whole's: the loss of a batch is the sum of its parts' shares."""
        return self.weigh(part) / max(1, self.weigh(whole))

    def predict(self, examples: Sequence[Example], *, batch_size: int = 64, label: str = "") -> torch.Tensor:
        """Return (n, n_labels) fp32 logits on the CPU, as `predict_counting`, which is a collective call."""
        return self.predict_counting(examples, batch_size=batch_size, label=label)[0]

    def predict_counting(
        self, examples: Sequence[Example], *, batch_size: int = 64, label: str = ""
    ) -> tuple[torch.Tensor, int]:
        """Return logits, in evaluation mode and without gradients, and of how many examples a part was left out.

        Examples of similar length share a batch, which saves padding; the result is in the order given. Batches are
        distributed over the processes, if there are several, and the result is the same on each: a collective call.
        """
        order = order_by_length(examples)
        width = max((len(example.choices) for example in examples), default=0) or len(self.task.labels)
        result = torch.full((len(examples), width), -torch.inf)
        batches, n_cut = [order[start : start + batch_size] for start in range(0, len(order), batch_size)], 0
        with self.evaluating(), self._caching():
            for batch, counts in tqdm(self.ranks.shard(batches), desc=label, disable=None, leave=False):
                rows = self.read([examples[i] for i in batch])
                logits = self.logits_of(rows).float().cpu()
                result[batch, : logits.shape[1]] = logits
                n_cut += counts * sum(row.is_cut for row in rows)
        of_ranks = self.ranks.gather(result)
        for number, batch in enumerate(batches):  # batch i was the work of process i modulo their number
            result[batch] = of_ranks[number % self.ranks.world][batch]
        return result, int(self.ranks.add(torch.tensor(n_cut)))

    def accuracy(self, examples: Sequence[Example], *, batch_size: int = 64, label: str = "") -> float:
        """Return the share of examples whose most probable label is right; NaN where an output is not finite."""
        logits = self.predict(examples, batch_size=batch_size, label=label)
        labels = torch.tensor([example.label for example in examples])
        return float((logits.argmax(-1) == labels).double().mean()) if are_finite(logits, examples) else math.nan

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Enter evaluation mode without gradients, and restore the mode on leaving."""
        was_training = self.model.training
        self.model.eval()
        try:
            # FSDP2 writes into the tensors that it gathered first, which inference mode forbids later on
            with torch.no_grad() if is_sharded(self.model) else torch.inference_mode():
                yield
        finally:
            self.model.train(was_training)

    def encode(self, texts: Sequence[Texts]) -> list[Encoded]:
        """Return what is read of each text, or pair of texts, for its label.

        Raises:
            DataError, ConfigError, CheckpointError: as `tokenize`.
        """
        return encode_texts(self.tokenizer, texts, self.limit)

    def tokenize(self, texts: Sequence[Texts], side: Side = "right") -> dict[str, torch.Tensor]:
        """Return texts, or pairs of texts, as a batch on the model's device, padded on the right unless `side` says so.

        Raises:
            DataError, ConfigError, CheckpointError: a text without a token, a limit that leaves room for none, and a
                token that the model does not embed.
        """
        return self.pad_encoded(encode_texts(self.tokenizer, texts, self.limit), side)

    def pad_encoded(self, rows: Sequence[Encoded], side: Side = "right") -> dict[str, torch.Tensor]:
        """Return encoded texts as `tokenize` returns texts."""
        return self._move(pad_encoded(rows, self.tokenizer, side))

    def pad(self, rows: Sequence[Sequence[int]], side: Side = "right") -> dict[str, torch.Tensor]:
        """Return token ids as a batch on the model's device, padded on the right unless `side` says so.

        Raises:
            CheckpointError: a token that the model does not embed.
        """
        return self._move(pad_tokens(rows, self.tokenizer.pad_token_id, side))

    def _move(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        highest = int(batch["input_ids"].max())
        embedded = embedded_tokens(self.model)  # asked anew each time: a patch may have resized the model
        if embedded is not None and highest >= embedded:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise CheckpointError(
                f"the tokenizer has the token {token!r} at {highest}, and the model embeds {embedded} tokens: "
                "it is another model's"
            )
        return {name: part.to(self.device) for name, part in batch.items()}

    def _caching(self) -> Any:
        """Enter a context in which weights do not change, so that a head may cache what depends on them alone."""
        return contextlib.nullcontext()


def spread_head(
    model: Path | Checkpoint,
    task: TaskSpec,
    runtime: Runtime = DEFAULT,
    *,
    seed: int = 0,
    rows: RowNames | None = None,
    renew: bool = False,
    products: torch.dtype | None = None,
) -> Head:
    """Open a head on every process of this run: each has the whole model ("ddp"), or a shard of each tensor ("fsdp").

    Alone it is `open_head`, whatever `runtime.parallel` says.

    Args:
        model, task, runtime, seed, rows, renew: as in `open_head`.
        products: as in `shard_weights`, where weights are sharded.

    Raises:
        CheckpointError, ConfigError: as `open_head` and `shard_weights`; and for no such engine.
    """
    if runtime.parallel not in ENGINES:
        raise ConfigError(f"parallel {runtime.parallel!r}: choose from {', '.join(ENGINES)}")
    ranks = find_ranks()
    if runtime.device == "auto-map" and not ranks.is_single:
        raise ConfigError("device 'auto-map' spreads a model within one process: use --parallel fsdp under a launcher")
    sharded = runtime.parallel == "fsdp" and not ranks.is_single
    opening = dataclasses.replace(runtime, device="cpu") if sharded else runtime
    computes_on = runtime.device if sharded else None
    head = open_head(model, task, opening, seed=seed, rows=rows, renew=renew, computes_on=computes_on)
    head.ranks = ranks
    if sharded:
        shard_weights(head.model, find_device(runtime.device), products)
        head.shards_of = products
    return head


def open_head(
    model: Path | Checkpoint,
    task: TaskSpec,
    runtime: Runtime = DEFAULT,
    *,
    seed: int = 0,
    rows: RowNames | None = None,
    renew: bool = False,
    computes_on: str | None = None,
) -> Head:
    """Load a model with the head that the task names.

    Args:
        model: a local model folder, an adapter's on the base that its config names, or an open checkpoint.
        task: the task.
        runtime: device, dtype and checkpointing; `parallel` matters to `spread_head` alone.
        seed: of a layer of the head's own that the checkpoint lacks.
        rows: the labels of such a layer's rows as something other than the folder gives them, such as a patch.
        renew: make a new layer where the folder's is for other labels than the task's, which is refused otherwise.
        computes_on: the device that the model will be moved to, where it is another one.

    Raises:
        CheckpointError: transformers cannot load the folder, or its model is not of the kind that the head needs.
        ConfigError: an unknown device or dtype, or words and template that do not fit the tokenizer.
    """
    kind: type[Head] = task.head.entry.load()
    torch.manual_seed(seed)
    source = model if isinstance(model, MadeCheckpoint) else open_folder(folder_of(model))
    head = kind.load(source, task, find_dtype(runtime.dtype), rows=rows, renew=renew)
    if runtime.gradient_checkpointing:
        checkpoint_layers(head.model)
    place_model(head.model, runtime.device)
    speed_up_products(head.model, computes_on)
    head.model.eval()
    return head
