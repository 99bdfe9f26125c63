"""The names of a model folder's weight files, and its index of shards."""

from __future__ import annotations

import json
from pathlib import Path

from graft.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"


def find_weights(folder: Path) -> Path:
    """Find the file that tells which weights a model folder holds: the index where there is one, else the single file.

    Raises:
        CheckpointError: neither is there, or an adapter lies in the folder, which some would load with the weights.
    """
    weights = next((folder / name for name in (INDEX, SINGLE) if (folder / name).is_file()), None)
    if (folder / ADAPTER).is_file():
        location = "beside its weights, which some tools load with them" if weights else "and no weights of a model"
        raise CheckpointError(
            f"{folder}: holds an adapter ({ADAPTER}) {location}: merge it into its base (merge_and_unload), "
            "move it to a folder of its own, or make a patch of it (graft import --from lora)"
        )
    if weights is None:
        raise CheckpointError(f"{folder}: holds neither {SINGLE} nor {INDEX}")
    return weights


def read_index(path: Path) -> dict[str, str]:
    """Read an index, which may be a stranger's: tensor name -> file name of its shard.

    Raises:
        CheckpointError: not an index, or one that reaches out of its folder.
    """
    try:
        shard_of = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = list(shard_of.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a valid index of shards") from error
    for name, shard in pairs:
        # a plain file name: an index must not reach out of its folder
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{path}: {name!r} lies in {shard!r}, which is not a file name of a shard")
    if not pairs:
        raise CheckpointError(f"{path}: lists no tensors")
    return dict(pairs)
