"""The formats of other tools, by the name that `graft export --to` and `graft import --from` know them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from graft.hub.interop.composable_sft import read_composable_sft
from graft.hub.interop.export_source import ExportSource
from graft.hub.interop.foreign import Foreign
from graft.hub.interop.lora import read_lora
from graft.hub.interop.shira import read_shira, refuse_for_shira, write_shira
from graft.hub.interop.state_dict import read_state_dict, write_state_dict
from graft.hub.interop.task_vector import refuse_for_task_vector, write_task_vector
from graft.hub.interop.vllm_patch import refuse_for_vllm, write_weight_patches
from graft.tensors.checkpoint import Checkpoint


def _refuse_nothing(source: ExportSource) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class ExportFormat:
    """A format that patches can be written in.

    Attributes:
        write: writes into a new file, or an empty folder.
        refuse: the tensors that it cannot hold, each with the reason.
        is_folder: whether it is a folder.
        is_additive: whether it holds differences, so that base values are needed and some values may be missed.
        needs_base: whether whole tensors of the base are needed.
    """

    write: Callable[[ExportSource, Path], None]
    refuse: Callable[[ExportSource], Mapping[str, str]] = _refuse_nothing
    is_folder: bool = False
    is_additive: bool = False
    needs_base: bool = False


EXPORTS: dict[str, ExportFormat] = {
    "shira": ExportFormat(write_shira, refuse_for_shira, is_folder=True, is_additive=True),
    "vllm": ExportFormat(write_weight_patches, refuse_for_vllm),
    "task-vector": ExportFormat(write_task_vector, refuse_for_task_vector, is_additive=True),
    "state-dict": ExportFormat(write_state_dict, needs_base=True),
}
IMPORTS: dict[str, Callable[[Path, Checkpoint], Foreign]] = {  # the file, and the base that it belongs to
    "shira": lambda file, base: read_shira(file),
    "composable-sft": lambda file, base: read_composable_sft(file),
    "lora": read_lora,
    "dense": lambda file, base: read_state_dict(file),
}
