"""Registry of other tools' formats, which `graft export --to` writes and `graft import --from` reads.

A format is one file in this folder and one row here. Nothing in this module imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.registry import Entry, Registry, load_target

if TYPE_CHECKING:
    from graft.interop.export_source import ExportSource
    from graft.sources.adapters.imported_weights import ImportedWeights
    from graft.tensors.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ExportFormat(Entry):
    """Row of a format that patches can be written in.

    Attributes:
        target: `write(source, path)`, which fills a new file or an empty folder.
        unsupported: "package.module:name" of `find_unsupported(source)`, which returns the tensors that the format
            cannot hold, each with the reason; None where it holds all.
        is_folder: whether its output is a folder.
        is_additive: whether it holds differences. It then needs the base's values under the mask, from the base or from
            the patch, and a few values may be out of reach of any difference.
        needs_base: whether whole tensors of the base are needed.
        assigned: "package.module:name" of a function of the source, which returns the tensors that an additive format
            holds as values all the same; None where there are none.
        lost_signs: "package.module:name" of a function of the source, which counts the base's values of -0.0 beside the
            patch's entries that the format's addition turns into +0.0; None where it adds nothing there.
        has_rank: whether it holds factors, whose rank can be limited.
    """

    unsupported: str | None = None
    assigned: str | None = None
    lost_signs: str | None = None
    has_rank: bool = False
    is_folder: bool = False
    is_additive: bool = False
    needs_base: bool = False

    @property
    def needs(self) -> str:
        """Inputs that the export needs beside the patch, for the reference pages."""
        if self.needs_base:
            return "the base"
        return "the base, or a patch that stores base values" if self.is_additive else "nothing"

    def write(self, source: ExportSource, path: Path) -> None:
        """Write a patch into a new file, or an empty folder."""
        self.load()(source, path)

    def find_unsupported(self, source: ExportSource) -> dict[str, str]:
        """Return the tensors that the format cannot hold, in ascending order, each with the reason."""
        reasons: Mapping[str, str] = load_target(self.unsupported)(source) if self.unsupported else {}
        return dict(sorted(reasons.items()))

    def find_assigned(self, source: ExportSource) -> frozenset[str]:
        """Return the tensors that an additive format holds as values."""
        return frozenset(load_target(self.assigned)(source) if self.assigned else ())

    def count_lost_signs(self, source: ExportSource) -> int:
        """Count the base's values of -0.0 beside the patch's entries that become +0.0."""
        return int(load_target(self.lost_signs)(source)) if self.lost_signs else 0


@dataclass(frozen=True, kw_only=True)
class ImportFormat(Entry):
    """Row of a format that patches can be made from.

    Attributes:
        target: `read(file)` or, where `reads_base`, `read(file, base)`; returns `ImportedWeights`.
        reads_base: whether the base's layers decide what the file means.
    """

    reads_base: bool = False

    def read(self, file: Path, base: Checkpoint) -> ImportedWeights:
        """Read the changes that a file makes to a base, without computing them yet."""
        arguments: tuple[Any, ...] = (file, base) if self.reads_base else (file,)
        weights: ImportedWeights = self.load()(*arguments)
        return weights


EXPORT_FORMATS = Registry(
    "format to export to",
    (
        ExportFormat(
            name="lora",
            help="a folder with a PEFT adapter whose factors multiply to the patch's differences exactly",
            target="graft.interop.lora_export:write_lora",
            unsupported="graft.interop.lora_export:find_unsupported",
            assigned="graft.interop.lora_export:find_assigned",
            lost_signs="graft.interop.lora_export:count_lost_signs",
            source="https://arxiv.org/abs/2106.09685",
            is_folder=True,
            is_additive=True,
            needs_base=True,
            has_rank=True,
        ),
        ExportFormat(
            name="shira",
            help="a folder with a PEFT adapter of sparse differences, for linear layers",
            target="graft.interop.shira:write_shira",
            unsupported="graft.interop.shira:find_unsupported",
            source="https://arxiv.org/abs/2406.13175",
            is_folder=True,
            is_additive=True,
        ),
        ExportFormat(
            name="vllm",
            help="flat indices and absolute values, as in vLLM's checkpoint weight patches",
            target="graft.interop.vllm_patch:write_weight_patches",
            unsupported="graft.interop.vllm_patch:find_unsupported",
            source="https://docs.vllm.ai",
        ),
        ExportFormat(
            name="task-vector",
            help="dense differences of the tensors that the patch touches",
            target="graft.interop.task_vector:write_task_vector",
            unsupported="graft.interop.task_vector:find_unsupported",
            source="https://arxiv.org/abs/2212.04089",
            is_additive=True,
        ),
        ExportFormat(
            name="state-dict",
            help="whole tensors that the patch touches, with its values in place",
            target="graft.interop.state_dict:write_state_dict",
            needs_base=True,
        ),
    ),
)
IMPORT_FORMATS = Registry(
    "format to import from",
    (
        ImportFormat(
            name="shira",
            help="an adapter folder of PEFT",
            target="graft.interop.adapters:import_shira",
            source="https://arxiv.org/abs/2406.13175",
            reads_base=True,
        ),
        ImportFormat(
            name="composable-sft",
            help="pytorch_diff.bin, opened by an allow-list so that nothing in it is run",
            target="graft.interop.composable_sft:read_composable_sft",
            source="https://arxiv.org/abs/2110.07560",
        ),
        ImportFormat(
            name="lora",
            help="an adapter folder of PEFT, merged into its base",
            target="graft.interop.adapters:import_lora",
            source="https://arxiv.org/abs/2106.09685",
            reads_base=True,
        ),
        ImportFormat(
            name="dense",
            help="a safetensors file or model folder with some or all tuned tensors",
            target="graft.interop.state_dict:read_state_dict",
        ),
    ),
)
