"""Placement of a model on one device, or of its layers on several, in a dtype; and recomputation of activations."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from graft.errors import ConfigError
from graft.tasks.loading import tell_once
from graft.tensors.wide_products import multiplies_fast, widen_slow_products

SPREAD = "auto-map"  # the device that stands for all of them
DTYPES: dict[str, torch.dtype | str] = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_LARGE = 20_000_000  # parameters from which it is felt how long a product takes


def find_device(name: str) -> torch.device:
    """Return the torch device of that name; "auto" takes a GPU where there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that torch has deprecated
            device = torch.device(name)
            torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # a meta tensor has no values
        fact = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        fact = "torch has no such device" if "INTERNAL ASSERT" in fact else fact
        raise ConfigError(f"device {name!r}: it cannot compute here ({fact})") from error
    return device


def find_dtype(name: str) -> torch.dtype | str:
    """Return the torch dtype of that name, or "auto": the checkpoint's own.

    Raises:
        ConfigError: no model is loaded in it.
    """
    if name not in DTYPES:
        raise ConfigError(f"dtype {name!r}: choose from {', '.join(DTYPES)}")
    return DTYPES[name]


def place_model(model: Any, device: str) -> None:
    """Move a model to a device; "auto-map" spreads its layers over all GPUs by accelerate's device map.

    Raises:
        ConfigError: no such device here; for "auto-map", accelerate is missing, or the GPUs hold less than the model:
            weights that are swapped in and out take no gradient.
    """
    if device != SPREAD:
        model.to(find_device(device))
        return
    try:
        from accelerate import dispatch_model, infer_auto_device_map
    except ImportError as error:
        raise ConfigError(f"device {SPREAD!r} needs the package accelerate") from error
    device_map = infer_auto_device_map(model, no_split_module_classes=list(model._no_split_modules or ()))
    devices = set(device_map.values())
    if "disk" in devices or ("cpu" in devices and len(devices) > 1):
        raise ConfigError(f"device {SPREAD!r}: the model does not fit the GPUs here; try --dtype bfloat16")
    dispatch_model(model, device_map)


def speed_up_products(model: Any, device: str | None = None) -> None:
    """Have a narrow model's products computed in fp32 where this processor has no instructions for its dtype.

    Of a large model it is said on stderr, once: fp32 alone spares the rounding of each product. Nothing is done, nor
    said, of a model in host memory that will compute on another `device`, as one whose shards go to GPUs.

    Raises:
        ConfigError: no such device here.
    """
    if device is not None and find_device(device).type != "cpu":
        return
    sizes: Counter[torch.dtype] = Counter()
    for weight in model.parameters():
        if weight.device.type == "cpu" and not multiplies_fast(weight.dtype):
            sizes[weight.dtype] += weight.numel()
    if not sizes:
        return
    widen_slow_products()
    if sizes.total() >= _LARGE:
        dtype = str(max(sizes, key=sizes.__getitem__)).removeprefix("torch.")
        tell_once(
            f"this processor has no products of {dtype}: they are computed in float32 and rounded; --dtype float32 "
            "spares the rounding, and takes twice the memory"
        )


def checkpoint_layers(model: Any) -> None:
    """Keep only the inputs of each layer, and recompute the rest in the backward pass (arXiv 1604.06174).

    It works in evaluation mode too, where transformers' own switch does nothing.

    Raises:
        ConfigError: the model has no layers that transformers can recompute.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(f"{type(model).__name__} has no layers for --gradient-checkpointing")
    for layer in layers:
        layer.forward = partial(_recompute, layer.forward)


def recomputes(model: Any) -> bool:
    """Return whether `checkpoint_layers` has been at work on a model."""
    layers = (vars(module).get("forward") for module in model.modules())
    return any(isinstance(forward, partial) and forward.func is _recompute for forward in layers)


def _recompute(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    from torch.utils.checkpoint import checkpoint

    caches = {"past_key_values": None, "use_cache": False}  # which a second computation would fill twice
    options |= {name: off for name, off in caches.items() if name in options}
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
