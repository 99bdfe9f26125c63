"""A model walked from base to tuned: gradients of the task's loss at any point between them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from tqdm import tqdm

from graft.errors import CheckpointError, PatchMismatchError
from graft.localize.offsets import fit_offsets
from graft.patch.live import LiveTarget
from graft.patch.mask import Mask
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.dtypes import as_bits
from graft.tensors.names import match_names
from graft.tensors.pair import CheckpointPair


class GradientPath:
    """One live model whose tensors in scope are set to points between base and tuned.

    Tensors outside the scope stay the base's, as they will in the graft. One model is resident; the tuned
    checkpoint is read tensor by tensor.

    Args:
        head: the task's head on the base model.
        pair: base and tuned checkpoints.
        names: base names in scope.
        examples: what the loss is averaged over.
        batch_size: examples per forward and backward.
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
        self.head = head
        self.pair = pair
        self.batch_size = batch_size
        self.seed = seed
        self.centred = centred
        self.examples = sorted(examples, key=lambda example: sum(map(len, example.texts)))  # saves padding
        target = LiveTarget(head.model)
        found = match_names(names, target.names, prefix=target.prefix, rename=target.rename)
        if found.missing:
            raise PatchMismatchError(f"tensor {found.missing[0]!r} is in scope, but the task's model does not have it")
        self.weights: Mapping[str, torch.Tensor] = {name: target.tensors[found.found[name]] for name in names}

    def gradients_at(self, alpha: float) -> dict[str, torch.Tensor]:
        """Gradients of the mean loss at base + alpha * delta: base name -> (n,) fp32.

        Raises:
            CheckpointError: the loss is not finite there.
        """
        self.move_to(alpha)
        return self._gradients(_point(alpha))

    def gradients_of_graft(self, mask: Mask) -> dict[str, torch.Tensor]:
        """Gradients of the mean loss at the graft of a mask: base name -> (n,) fp32.

        Raises:
            CheckpointError: the loss is not finite there.
        """
        self.move_to_graft(mask)
        return self._gradients(f"a graft of {len(mask):,} entries")

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
        offsets = self._prepare(centred=self.centred and not drawn)
        examples = self._with_drawn_labels() if drawn else self.examples
        mean = {name: torch.zeros(weight.numel(), device=weight.device) for name, weight in self.weights.items()}
        for batch in self._batches(examples, micro_batch, where := _point(alpha)):
            self._backward(batch, offsets, 1.0, where)
            for name, weight in self.weights.items():
                gradient = self._take_gradient(weight)
                mean[name].addcmul_(gradient, gradient, value=len(batch) / len(examples))
        return mean

    def _gradients(self, where: str) -> dict[str, torch.Tensor]:
        return self.gradients_here(self.examples, where, centred=self.centred)

    def gradients_here(
        self, examples: Sequence[Example], where: str, *, centred: bool = False
    ) -> dict[str, torch.Tensor]:
        """Gradients of the mean loss where the weights are now: base name -> (n,) fp32.

        Args:
            examples: what the loss is averaged over.
            where: the name of the point, for progress and errors.
            centred: set class offsets aside, which are fitted on the path's own examples.

        Raises:
            CheckpointError: the loss is not finite.
        """
        offsets = self._prepare(centred=centred)
        for batch in self._batches(examples, self.batch_size, where):
            self._backward(batch, offsets, len(batch) / len(examples), where)
        return {name: self._take_gradient(weight) for name, weight in self.weights.items()}

    def _prepare(self, *, centred: bool) -> torch.Tensor | None:
        """Gradients for the tensors in scope alone, evaluation mode, and the class offsets where asked for."""
        wanted = {id(weight) for weight in self.weights.values()}
        for weight in self.head.model.parameters():
            weight.requires_grad_(id(weight) in wanted)
            weight.grad = None
        self.head.model.eval()
        return self._fit_offsets() if centred and self.head.has_classes else None

    def _batches(self, examples: Sequence[Example], size: int, where: str) -> Iterator[Sequence[Example]]:
        starts = range(0, len(examples), size)
        for start in tqdm(starts, desc=f"gradients at {where}", disable=None, leave=False):
            yield examples[start : start + size]

    def _backward(self, batch: Sequence[Example], offsets: torch.Tensor | None, factor: float, where: str) -> None:
        loss = self.head.loss(batch, offsets) * factor
        if not torch.isfinite(loss):
            raise CheckpointError(f"the loss is {loss.item()} at {where}")
        loss.backward()  # type: ignore[no-untyped-call]

    def _with_drawn_labels(self) -> list[Example]:
        logits = self.head.predict(self.examples, batch_size=self.batch_size, label="labels")
        generator = torch.Generator().manual_seed(self.seed)
        labels = torch.multinomial(logits.double().softmax(-1), 1, generator=generator).squeeze(1).tolist()
        return [dataclasses.replace(example, label=label) for example, label in zip(self.examples, labels, strict=True)]

    def _fit_offsets(self) -> torch.Tensor:
        labels = torch.tensor([example.label for example in self.examples])
        logits = self.head.predict(self.examples, batch_size=self.batch_size, label="class offsets")
        return fit_offsets(logits, labels).to(self.head.device)

    def move_to(self, alpha: float) -> None:
        """Set every tensor in scope to its point on the path."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                # in the live model's dtype, which may be a lower one than the checkpoints'
                base, tuned = (tensor.to(weight.dtype) for tensor in self.pair.read(name))
                weight.copy_(path_point(base, tuned, alpha, f"{self.seed}\0{name}"))

    def move_to_graft(self, mask: Mask) -> None:
        """Set every tensor in scope to the base's, with the tuned values at a mask."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                base, tuned = self.pair.read(name)
                indices = torch.tensor(mask[name])
                values = base.flatten().index_copy(0, indices, tuned.flatten()[indices])
                weight.copy_(values.view(weight.shape))

    def move_to_each(self, share: Callable[[str], torch.Tensor]) -> None:
        """Set every entry in scope to its own point, base + share * delta; `share` gives a tensor's (n,) fp32."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                base, tuned = (tensor.flatten().to(weight.dtype) for tensor in self.pair.read(name))
                weight.copy_(torch.lerp(base, tuned, share(name).to(weight.dtype)).view(weight.shape))

    def return_to_base(self) -> None:
        """Set every tensor in scope to the base's bits."""
        self.move_to(0.0)

    def _take_gradient(self, weight: torch.Tensor) -> torch.Tensor:
        gradient, weight.grad = weight.grad, None
        if gradient is None:  # a tensor that the head does not use, such as a pooler
            return torch.zeros(weight.numel(), device=weight.device)
        return gradient.detach().float().flatten()


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
