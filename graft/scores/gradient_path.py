"""The path from base to tuned: gradients of the task's loss at any point of it, by one live model."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

import torch

from graft.parallel.supported_wrappers import refuse_copied
from graft.patch.live import LiveTarget
from graft.patch.mask import Mask
from graft.scores.gradients import (
    DenseSquares,
    DenseSum,
    Gradients,
    GradientSink,
    MicroBatch,
    split_examples,
    stream_gradients,
)
from graft.scores.offsets import fit_class_offsets
from graft.tasks.examples import Example, sort_by_texts
from graft.tasks.head import Head
from graft.tensors.dtypes import as_bits, assign
from graft.tensors.pair import CheckpointPair
from graft.tensors.shards import local_of, shard_of

EMPTY_MASK = Mask({}, {})


class GradientPath:
    """A live model whose tensors in scope are set to points between base and tuned.

    Tensors outside the scope keep the base's values, as in the graft. One model is resident; the tuned
    checkpoint is read tensor by tensor, and each tensor's gradient is handed to a sink and freed.

    Attributes:
        weights: base name -> live tensor, for those in scope.

    Args:
        head: the task's head on the base model.
        pair: base and tuned checkpoints.
        names: base names in scope.
        examples: those that the loss is averaged over.
        batch_size: examples per forward and backward pass, a micro-batch.
        seed: of the path in low precision.
        class_debias: fit class offsets and set them aside at each point, where the head has classes; choices of a row
            and next tokens are none.
    """

    def __init__(
        self,
        head: Head,
        pair: CheckpointPair,
        names: Sequence[str],
        examples: Sequence[Example],
        *,
        batch_size: int = 32,
        seed: int = 0,
        class_debias: bool = True,
    ) -> None:
        refuse_copied(head.model)
        self.head = head
        self.pair = pair
        self.batch_size = batch_size
        self.seed = seed
        self.class_debias = class_debias
        head.inspect(examples, "train")
        counted = head.with_outputs(examples)
        self.examples = sort_by_texts(counted)  # saves padding
        self.weights: Mapping[str, torch.Tensor] = LiveTarget(head.model).require(names, "is in scope")
        self._moved: Mask | None = EMPTY_MASK  # where weights are not the base's; None: anywhere
        self._location = _describe_point(0.0)

    def stream_gradients(
        self,
        sink: GradientSink,
        weights: Mapping[str, torch.Tensor] | None = None,
        *,
        micro_batches: int | None = None,
        factor: float = 1.0,
    ) -> None:
        """Stream to a sink the gradients of the mean loss where the weights are now, one micro-batch after another.

        Args:
            sink: what takes them; they add up to the gradient of the mean over all examples.
            weights: base name -> live tensor, whose gradients are wanted; all in scope where absent.
            micro_batches: only so many, evenly spread over the examples.
            factor: of the loss, where it is a part of a sum.

        Raises:
            CheckpointError: the loss is not finite.
        """
        offsets = self._fit_offsets() if self.class_debias else None
        parts = split_examples(self.examples, self.batch_size)
        if micro_batches is not None and micro_batches < len(parts):
            parts = [parts[i * len(parts) // micro_batches] for i in range(micro_batches)]
        batches = [MicroBatch(part, factor * self.head.share(part, self.examples)) for part in parts]
        self._stream(sink, self.weights if weights is None else weights, batches, offsets)

    def gradients_at(self, alpha: float) -> Gradients:
        """Return the gradients of the mean loss at base + alpha * delta, all of them: base name -> (n,) fp32.

        Raises:
            CheckpointError: the loss is not finite there.
        """
        self.move_to(alpha)
        self.stream_gradients(sink := DenseSum(self.weights))
        return sink.sums

    def gradients_of(self, examples: Sequence[Example]) -> Gradients:
        """Return the gradients of some examples' mean loss, class offsets left in: name -> (n,) fp32.

        They are taken where the weights are now.

        Raises:
            CheckpointError: the loss is not finite.
        """
        sink = DenseSum(self.weights)
        parts = split_examples(examples, self.batch_size)
        self._stream(sink, self.weights, [MicroBatch(part, self.head.share(part, examples)) for part in parts])
        return sink.sums

    def squared_gradients_at(self, alpha: float, *, micro_batch: int = 1, drawn: bool = False) -> Gradients:
        """Return the diagonal of the Fisher information at base + alpha * delta: base name -> (n,) fp32.

        (1/n) * sum over micro-batches of b examples of b * (gradient of their mean loss)^2; with b = 1 one backward
        pass per example.

        Args:
            alpha: the point.
            micro_batch: b, at least 1.
            drawn: take labels drawn from the model's own predictions there by the seed (the Fisher information
                itself) instead of the task's (the empirical one); class offsets are not set aside then.

        Raises:
            CheckpointError: the loss is not finite there.
        """
        self.move_to(alpha)
        offsets = self._fit_offsets() if self.class_debias and not drawn else None
        examples = self._with_drawn_labels() if drawn else self.examples
        sink = DenseSquares(self.weights)
        # (sqrt(b/n) * g)^2 = b/n * g^2
        parts = split_examples(examples, micro_batch)
        batches = [MicroBatch(part, math.sqrt(len(part) / len(examples))) for part in parts]
        self._stream(sink, self.weights, batches, offsets)
        return sink.sums

    def _stream(
        self,
        sink: GradientSink,
        weights: Mapping[str, torch.Tensor],
        batches: list[MicroBatch],
        offsets: torch.Tensor | None = None,
    ) -> None:
        where = f" at {self._location}"
        stream_gradients(self.head, weights, sink, batches, offsets=offsets, label=f"gradients{where}", context=where)

    def _with_drawn_labels(self) -> list[Example]:
        logits = self.head.predict(self.examples, batch_size=self.batch_size, label="labels")
        generator, names = torch.Generator().manual_seed(self.seed), self.head.task.labels
        n = logits.shape[1]  # a draw goes through the labels by their names, so that their order in a task is no matter
        order = torch.tensor(sorted(range(n), key=names.__getitem__) if len(names) == n else range(n))
        drawn = torch.multinomial(logits.double().softmax(-1)[:, order], 1, generator=generator).squeeze(1)
        labels = order[drawn].tolist()
        return [dataclasses.replace(example, label=label) for example, label in zip(self.examples, labels, strict=True)]

    def _fit_offsets(self) -> torch.Tensor | None:
        if not self.head.has_classes:
            return None
        labels = torch.tensor([example.label for example in self.examples])
        logits = self.head.predict(self.examples, batch_size=self.batch_size, label="class offsets")
        return fit_class_offsets(logits, labels).to(self.head.device)

    def move_to(self, alpha: float) -> None:
        """Set every tensor in scope to its point on the path."""
        self._moved, self._location = None, _describe_point(alpha)
        with torch.no_grad():
            for name, weight in self.weights.items():
                # in the live model's dtype, which may be a lower one than the checkpoints'
                base, tuned = (tensor.to(weight.dtype) for tensor in self.pair.read(name))
                # a key per tensor: the draws depend on no other tensor, and are the same in every process
                point = path_point(base, tuned, alpha, f"{self.seed}\0{name}")
                local_of(weight).copy_(shard_of(weight).cut(point))

    def move_to_graft(self, mask: Mask) -> None:
        """Set every tensor in scope to the base's, with the tuned values at a mask."""
        self.return_to_base()  # writes k values back where the last graft was, or reads all tensors after `move_to`
        self._moved, self._location = mask, f"a graft of {len(mask):,} entries"
        self._assign(mask, tuned=True)

    def move_to_each(self, share: Callable[[str], torch.Tensor]) -> None:
        """Set every entry in scope to its own point, base + share * delta; `share` maps a name to (n,) fp32."""
        self._moved, self._location = None, "the relaxed mask"
        with torch.no_grad():
            for name, weight in self.weights.items():
                base, tuned = (tensor.flatten().to(weight.dtype) for tensor in self.pair.read(name))
                weight.copy_(torch.lerp(base, tuned, share(name).to(weight.dtype)).view(weight.shape))

    def return_to_base(self) -> None:
        """Set every tensor in scope to the base's bits."""
        if self._moved is None:
            self.move_to(0.0)
        else:
            self._assign(self._moved, tuned=False)
        self._moved, self._location = EMPTY_MASK, _describe_point(0.0)

    def _assign(self, mask: Mask, *, tuned: bool) -> None:
        for name in mask:
            indices = torch.tensor(mask[name])
            values = self.pair.read_at(name, indices)[tuned]
            assign(self.weights[name], indices, values.to(self.weights[name].dtype))


def _describe_point(alpha: float) -> str:
    return f"{alpha:.2f} of the way from base to tuned"


def path_point(base: torch.Tensor, tuned: torch.Tensor, alpha: float, key: str) -> torch.Tensor:
    """Return the point at alpha between two tensors of one dtype; exactly base at 0 and tuned at 1.

    In fp32 and wider it is base + alpha * (tuned - base). In lower precision that would round back onto an
    endpoint for about half of the changed entries (design, section 8); there each entry is the tuned one with
    probability alpha, by one uniform draw per entry that `key` determines, so that the path is monotone.

    Five entries whose tuned value is the next bfloat16 after the base's, so that there is nothing between them:

        draws          .12   .81   .40   .67   .30
        alpha = .25    tuned base  base  base  base     1 of 5 has moved
        alpha = .5     tuned base  tuned base  tuned    the same draws: 1 stays moved, 2 more follow
        alpha = 1      tuned tuned tuned tuned tuned

    The mean over entries is alpha of the way, which rounding each would miss: at alpha = .25 none would have moved, and
    at .75 all.
    """
    if alpha in (0.0, 1.0):
        return tuned if alpha else base
    if base.dtype in (torch.float32, torch.float64):
        return torch.lerp(base, tuned, alpha)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
    draws = torch.rand(base.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(draws < alpha, as_bits(tuned), as_bits(base)).view(base.dtype)
