"""A model walked from base to tuned: gradients of the task's loss at any point between them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from tqdm import tqdm

from graft.errors import CheckpointError, PatchMismatchError
from graft.localize.gradients import DenseSquares, DenseSum, GradientSink, backpropagate, pouring
from graft.localize.offsets import fit_offsets
from graft.parallel.sharded import is_sharded
from graft.parallel.supported_wrappers import refuse_copied
from graft.patch.live import LiveTarget
from graft.patch.mask import Mask
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.dtypes import as_bits, assign
from graft.tensors.pair import CheckpointPair
from graft.tensors.shards import local_of, shard_of

NOTHING = Mask({}, {})


class GradientPath:
    """One live model whose tensors in scope are set to points between base and tuned.

    Tensors outside the scope stay the base's, as they will in the graft. One model is resident; the tuned
    checkpoint is read tensor by tensor, and each tensor's gradient is handed to a sink and freed.

    Attributes:
        weights: base name -> live tensor, for those in scope.

    Args:
        head: the task's head on the base model.
        pair: base and tuned checkpoints.
        names: base names in scope.
        examples: what the loss is averaged over.
        batch_size: examples per forward and backward, a micro-batch.
        seed: of the path in low precision.
        centred: whether class offsets are fitted and set aside at each point, where the head has classes: the place
            of a choice and the next token have none.
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
        centred: bool = True,
    ) -> None:
        refuse_copied(head.model)
        self.head = head
        self.pair = pair
        self.batch_size = batch_size
        self.seed = seed
        self.centred = centred
        self.examples = sorted(examples, key=lambda example: sum(map(len, example.texts)))  # saves padding
        target = LiveTarget(head.model)
        found = target.match(names)
        if found.missing:
            raise PatchMismatchError(f"tensor {found.missing[0]!r} is in scope, but the task's model does not have it")
        self.weights: Mapping[str, torch.Tensor] = {name: target.tensors[found.found[name]] for name in names}
        self._moved: Mask | None = NOTHING  # where weights are not the base's; None: anywhere
        self._place = _point(0.0)

    def pour(
        self, sink: GradientSink, weights: Mapping[str, torch.Tensor] | None = None, *, micro_batches: int | None = None
    ) -> None:
        """Give a sink the gradients of the mean loss where the weights are now, one micro-batch after another.

        Args:
            sink: what takes them; they add up to the gradient of the mean over all examples.
            weights: base name -> live tensor, whose gradients are wanted; all in scope where absent.
            micro_batches: only so many, evenly spread over the examples.

        Raises:
            CheckpointError: the loss is not finite.
        """
        offsets = self._fit_offsets() if self.centred else None
        batches = self._batches(self.examples, self.batch_size)
        if micro_batches is not None and micro_batches < len(batches):
            batches = [batches[i * len(batches) // micro_batches] for i in range(micro_batches)]
        factors = [len(batch) / len(self.examples) for batch in batches]
        self._pour(sink, self.weights if weights is None else weights, batches, offsets, factors)

    def gradients_at(self, alpha: float) -> dict[str, torch.Tensor]:
        """Gradients of the mean loss at base + alpha * delta, all of them: base name -> (n,) fp32.

        Raises:
            CheckpointError: the loss is not finite there.
        """
        self.move_to(alpha)
        self.pour(sink := DenseSum(self.weights))
        return sink.sums

    def gradients_of(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Gradients of some examples' mean loss where the weights are now, class offsets left in: name -> (n,) fp32.

        Raises:
            CheckpointError: the loss is not finite.
        """
        sink = DenseSum(self.weights)
        batches = self._batches(examples, self.batch_size)
        self._pour(sink, self.weights, batches, None, [len(batch) / len(examples) for batch in batches])
        return sink.sums

    def squared_gradients_at(
        self, alpha: float, *, micro_batch: int = 1, drawn: bool = False
    ) -> dict[str, torch.Tensor]:
        """Diagonal of the Fisher information at base + alpha * delta: base name -> (n,) fp32.

        (1/n) * sum over micro-batches of b examples of b * (gradient of their mean loss)^2; with b = 1 one backward
        per example.

        Args:
            alpha: the point.
            micro_batch: b, at least 1.
            drawn: take labels drawn from the model's own predictions there by the seed (the Fisher information
                itself) instead of the task's (the empirical one); class offsets are not set aside then.

        Raises:
            CheckpointError: the loss is not finite there.
        """
        self.move_to(alpha)
        offsets = self._fit_offsets() if self.centred and not drawn else None
        examples = self._with_drawn_labels() if drawn else self.examples
        sink = DenseSquares(self.weights)
        batches = self._batches(examples, micro_batch)
        # (sqrt(b/n) * g)^2 = b/n * g^2
        self._pour(sink, self.weights, batches, offsets, [math.sqrt(len(batch) / len(examples)) for batch in batches])
        return sink.sums

    def _pour(
        self,
        sink: GradientSink,
        weights: Mapping[str, torch.Tensor],
        batches: Sequence[Sequence[Example]],
        offsets: torch.Tensor | None,
        factors: Sequence[float],
    ) -> None:
        """A backward pass of each batch's mean loss times its factor, in evaluation mode; dealt out to processes."""
        self.head.model.eval()
        with pouring(self.head.model, weights, sink):
            dealt = self.head.ranks.shard(list(zip(batches, factors, strict=True)))
            bar = tqdm(dealt, desc=f"gradients at {self._place}", disable=None, leave=False)
            for (batch, factor), counts in bar:
                loss = self.head.loss(batch, offsets) * factor
                if not torch.isfinite(loss):
                    raise CheckpointError(f"the loss is {loss.item()} at {self._place}")
                backpropagate(self.head, loss, counts)
                sink.end_batch(counts=counts or is_sharded(self.head.model))

    def _batches(self, examples: Sequence[Example], size: int) -> list[Sequence[Example]]:
        return [examples[start : start + size] for start in range(0, len(examples), size)]

    def _with_drawn_labels(self) -> list[Example]:
        logits = self.head.predict(self.examples, batch_size=self.batch_size, label="labels")
        generator = torch.Generator().manual_seed(self.seed)
        labels = torch.multinomial(logits.double().softmax(-1), 1, generator=generator).squeeze(1).tolist()
        return [dataclasses.replace(example, label=label) for example, label in zip(self.examples, labels, strict=True)]

    def _fit_offsets(self) -> torch.Tensor | None:
        if not self.head.has_classes:
            return None
        labels = torch.tensor([example.label for example in self.examples])
        logits = self.head.predict(self.examples, batch_size=self.batch_size, label="class offsets")
        return fit_offsets(logits, labels).to(self.head.device)

    def move_to(self, alpha: float) -> None:
        """Set every tensor in scope to its point on the path."""
        self._moved, self._place = None, _point(alpha)
        with torch.no_grad():
            for name, weight in self.weights.items():
                # in the live model's dtype, which may be a lower one than the checkpoints'
                base, tuned = (tensor.to(weight.dtype) for tensor in self.pair.read(name))
                point = path_point(base, tuned, alpha, f"{self.seed}\0{name}")
                local_of(weight).copy_(shard_of(weight).cut(point))

    def move_to_graft(self, mask: Mask) -> None:
        """Set every tensor in scope to the base's, with the tuned values at a mask."""
        self.return_to_base()
        self._moved, self._place = mask, f"a graft of {len(mask):,} entries"
        self._assign(mask, tuned=True)

    def move_to_each(self, share: Callable[[str], torch.Tensor]) -> None:
        """Set every entry in scope to its own point, base + share * delta; `share` gives a tensor's (n,) fp32."""
        self._moved, self._place = None, "the relaxed mask"
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
        self._moved, self._place = NOTHING, _point(0.0)

    def _assign(self, mask: Mask, *, tuned: bool) -> None:
        for name in mask:
            indices = torch.tensor(mask[name])
            values = self.pair.read_at(name, indices)[tuned]
            assign(self.weights[name], indices, values.to(self.weights[name].dtype))


def _point(alpha: float) -> str:
    return f"{alpha:.2f} of the way from base to tuned"


def path_point(base: torch.Tensor, tuned: torch.Tensor, alpha: float, key: str) -> torch.Tensor:
    """The point at alpha between two tensors of one dtype; exactly base at 0 and tuned at 1.

    In fp32 and wider it is base + alpha * (tuned - base). In lower precision that would round back onto an
    endpoint for about half of the changed entries (design, section 8); there each entry is the tuned one with
    probability alpha, by one uniform draw per entry that `key` determines, so that the path is monotone.
    """
    if alpha in (0.0, 1.0):
        return tuned if alpha else base
    if base.dtype in (torch.float32, torch.float64):
        return torch.lerp(base, tuned, alpha)
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
    draws = torch.rand(base.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(draws < alpha, as_bits(tuned), as_bits(base)).view(base.dtype)
