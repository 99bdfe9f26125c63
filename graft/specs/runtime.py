"""Where and in what precision a model runs: options of the command line and of Python calls, none of YAML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

Engine = Literal["ddp", "fsdp"]


class RuntimeOptions(TypedDict):
    """A `Runtime` as the keyword arguments of `train_task` and `localize_skill`."""

    device: str
    dtype: str
    gradient_checkpointing: bool
    parallel: str


@dataclass(frozen=True)
class Runtime:
    """Where and how a model runs.

    Attributes:
        device: "auto" (a GPU where there is one), "cpu", "cuda", any torch device, or "auto-map" (over all GPUs).
        dtype: "auto" (the checkpoint's own), "float32", "bfloat16" or "float16".
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them: less memory,
            more time.
        parallel: over several processes: the whole model on each ("ddp"), or a shard of each tensor ("fsdp", FSDP2).
    """

    device: str = "auto"
    dtype: str = "auto"
    gradient_checkpointing: bool = False
    parallel: str = "ddp"

    @property
    def options(self) -> RuntimeOptions:
        """Return the same as keyword arguments."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "gradient_checkpointing": self.gradient_checkpointing,
            "parallel": self.parallel,
        }


DEFAULT = Runtime()
