"""Master weights: the fp32 form in which the weights of a narrow base train, and its rounding to the base's dtype.

A step of AdamW at a rate of 2e-5 moves a weight by about 2e-5. In bfloat16, with 8 significant bits, the weights next
to .02 are 1.2e-4 away: added there the step rounds off, and the weight stays where it was however many steps follow.

    steps of 2e-5                0          1          2          3          4
    bfloat16, nearest            .0200195   .0200195   .0200195   .0200195   .0200195
    fp32                         .0200195   .0200395   .0200595   .0200795   .0200995
    the same, as it is saved     .0200195   .0200195   .0200195   .0200195   .0201416

Mixed precision training (arXiv 1710.03740) therefore holds weights and moments in fp32 and computes the products in a
narrow dtype: they are those of the rounded weights, as the masters gather what is too small to show yet. Here that is
bfloat16 for a base in float16 too: it has the range of fp32, so that no loss needs to be scaled. The products' inputs
are cast by autocast; what autocast leaves in fp32, such as norms, the residual stream and the loss, stays so. Masters
that FSDP2 shards it gathers rounded to bfloat16, which halves what is sent: there the whole forward pass is in
bfloat16, as that of the saved model is, and gradients are added up in fp32. An fp32 weight that never moved rounds back
to the base's bits exactly, so that what was protected, or pulled back to the base, is the base's in the saved file too;
a weight has changed where its rounded bits have. Localization, importance and evaluation know nothing of the masters:
they compute in the base's dtype.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from graft.errors import ConfigError, TrainingError
from graft.parallel.launch import find_ranks
from graft.parallel.sharded import reshard
from graft.specs.runtime import Runtime
from graft.specs.train import Precision
from graft.tasks.placement import find_dtype
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import NARROW, TORCH_DTYPES, is_finite
from graft.tensors.shards import is_distributed, local_of

PRODUCTS = torch.bfloat16


def widens(precision: Precision, dtype: torch.dtype) -> bool:
    """Return whether a model that is loaded in a dtype trains as fp32 master weights."""
    return precision != "pure" and dtype in NARROW


def products_of_shards(base: Checkpoint, runtime: Runtime, precision: Precision) -> torch.dtype | None:
    """Return the dtype of products where a base's weights train as fp32 master weights in FSDP2's shards, else None.

    Raises:
        ConfigError: the products would not be those of the saved model, saying what to use instead.
    """
    dtype = loaded_dtype(base, runtime.dtype)
    if runtime.parallel != "fsdp" or find_ranks().is_single or not widens(precision, dtype):
        return None
    if precision != "mixed" or dtype != PRODUCTS:
        raise ConfigError(
            f"train.precision {precision} of weights in {str(dtype).removeprefix('torch.')} needs them whole: use "
            "--parallel ddp, one process or --precision pure; of sharded weights only bfloat16's train mixed"
        )
    return PRODUCTS


def loaded_dtype(base: Checkpoint, dtype: str) -> torch.dtype:
    """Return the dtype in which a base's weights are loaded, and the tuned ones saved: "auto" is that of most of them.

    Raises:
        ConfigError: no model is loaded in that dtype.
    """
    found = find_dtype(dtype)
    return found if isinstance(found, torch.dtype) else TORCH_DTYPES[base.dtype]


class MasterWeights:
    """A model's parameters and buffers while it trains, in fp32 where they were loaded narrower, unless purely.

    Args:
        model: just loaded, whole, not yet wrapped; its narrow tensors become fp32 one after another, in place.
        precision: as in the train block.
        shards_of: the dtype of weights that are sharded, and fp32, already (`products_of_shards`).
    """

    def __init__(
        self, model: torch.nn.Module, precision: Precision = "pure", shards_of: torch.dtype | None = None
    ) -> None:
        self._model = model
        self._are_shards = shards_of is not None
        self._dtypes: dict[torch.Tensor, torch.dtype]  # of each master: the one in which it is saved
        self._products: torch.dtype | None = None  # the dtype that autocast casts to
        tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
        if shards_of is not None:  # FSDP2 casts
            self._dtypes = dict.fromkeys(filter(is_distributed, tensors), shards_of)
            return
        self._dtypes = {tensor: tensor.dtype for tensor in tensors if widens(precision, tensor.dtype)}
        self._products = PRODUCTS if self._dtypes and precision == "mixed" else None
        for tensor in self._dtypes:
            tensor.data = tensor.data.float()

    def __bool__(self) -> bool:
        """Tell whether there is a weight in another dtype than that in which it is saved."""
        return bool(self._dtypes)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Enter a context in which the forward pass computes its products in the narrow dtype, if it is to."""
        if self._products is None:
            return contextlib.nullcontext()
        return torch.autocast(next(self._model.parameters()).device.type, dtype=self._products)

    @contextlib.contextmanager
    def rounded(self) -> Iterator[None]:
        """Lend the model its weights as they will be saved, for measurements: a copy in the narrow dtype.

        The masters are not written to, and everything that knows them by identity, such as the optimizer, the hooks of
        protection and those of DistributedDataParallel, finds them as they were. Shards need no copy: they are gathered
        rounded.
        """
        if self._are_shards:
            yield
            return
        masters = list(self._places())
        try:
            copies = {master: self._round(master) for master in self._dtypes}
            for tensors, name, master in masters:
                tensors[name] = copies[master]
            yield
        finally:
            for tensors, name, master in masters:
                tensors[name] = master

    def round(self) -> None:
        """Turn the weights into what is saved for good, at the end of training, one after another.

        Raises:
            TrainingError: float16 does not hold a weight.
        """
        if self._are_shards:
            reshard(self._model)
        places: dict[torch.Tensor, list[tuple[dict[str, Any], str]]] = {}
        for tensors, name, master in self._places():
            places.setdefault(master, []).append((tensors, name))
        for master, held in places.items():
            narrow = self._round(master)
            if not is_finite(local_of(narrow)):
                raise TrainingError(f"a trained weight is not finite in {narrow.dtype}: lower train.lr")
            if self._are_shards:  # a DTensor's data cannot change its dtype
                for tensors, name in held:
                    tensors[name] = narrow.requires_grad_(master.requires_grad)
            else:
                master.data = narrow.data
        self._dtypes = {}

    def _places(self) -> Iterator[tuple[dict[str, Any], str, torch.Tensor]]:
        """Yield where in the model each master is: a module's own parameters or buffers, the name there, the master."""
        for module in self._model.modules():
            for tensors in (module._parameters, module._buffers):
                yield from ((tensors, name, held) for name, held in tensors.items() if held in self._dtypes)

    def _round(self, master: torch.Tensor) -> torch.Tensor:
        """Return the master to nearest-even in the dtype that it was loaded in, as a tensor of the same kind."""
        narrow = master.detach().to(self._dtypes[master])
        return torch.nn.Parameter(narrow, requires_grad=False) if isinstance(master, torch.nn.Parameter) else narrow
