"""Adapter beside a published patch, so that transformers and PEFT alone show its skill."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from graft.errors import ConfigError, PatchError
from graft.interop.exporting import export_patch
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.sources.adapters.peft_adapter import CONFIG, WEIGHTS


def make_adapter_files(region: Patch | Mask, base: str | Path | None, base_id: str | None) -> dict[str, bytes]:
    """Make a LoRA adapter that merges to exactly the patch's values; return its two files.

    Args:
        region: the patch.
        base: the model that it was cut from; `base_id` where None.
        base_id: the Hub id by which transformers finds the base.

    Raises:
        PatchError: a mask, which has no values, or a patch with a head of its own;
            or no adapter is exact, or none of at most the default rank.
        ConfigError: the base has no Hub id.
        PatchMismatchError, CheckpointError, HubError: the patch was cut from another base, or it cannot be read.
    """
    if isinstance(region, Mask):
        raise PatchError("--with-adapter: a mask has no values, from which an adapter could be made")
    if region.dense:
        raise PatchError(
            "--with-adapter: the patch brings a head, with which AutoModel does not load: `graft export --to lora` "
            "writes an adapter for the model that has it"
        )
    if base_id is None:
        raise ConfigError("--with-adapter: an adapter names its base by a Hub id: pass --base-model HUB_ID")
    origin = region.provenance
    named = replace(region, provenance=replace(origin, base=replace(origin.base, id=base_id)))
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        try:
            export_patch(named, "lora", adapter, base=str(base or base_id), strict=True)
        except PatchError as error:
            raise type(error)(f"--with-adapter: {error}") from error
        return {name: (adapter / name).read_bytes() for name in (CONFIG, WEIGHTS)}
