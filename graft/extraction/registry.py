"""Ways to extract what a fine-tune changed, each with what it needs beside the two checkpoints.

A method is a file with a function from `graft.extraction.inputs.ExtractionInput` and a size to a
`graft.extraction.extracted.Extracted`, and a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graft.controls.registry import CONTROLS
from graft.errors import ConfigError
from graft.registry import Entry, Registry, name_number

Needs = Literal["nothing", "texts", "labels"]
_FOLDER = "graft.extraction."


@dataclass(frozen=True, kw_only=True)
class ExtractionMethod(Entry):
    """Way to extract a fine-tune.

    Attributes:
        needs: what it is given beside base and tuned checkpoint: "nothing", unlabeled "texts", or "labels" too.
        unit: what its size is a number of, as plots and tables call it, such as "rank".
        sizes: those that are tried where a recipe names none.
        is_control: for comparison with another method; left out where a recipe names no methods.
        fits_logits: it fits to the tuned model's logits of labels, which a head that writes answers does not have.
    """

    needs: Needs
    unit: str
    sizes: tuple[float, ...]
    is_control: bool = False
    fits_logits: bool = False

    def name_at(self, size: float) -> str:
        """Return the name of the method at a size, such as "svd, rank 4"."""
        return f"{self.name}, {self.unit} {name_number(size)}"

    def check(self, size: float) -> None:
        """Refuse a size that the method cannot have.

        Raises:
            ConfigError: naming the method and what it may be.
        """
        if self.unit in ("density", "sparsity"):
            holds, range_of_unit = 0 < size < 1, "a number above 0 and below 1"
        else:
            holds, range_of_unit = size >= 1 and size == int(size), "a whole number from 1 on"
        if not holds:
            raise ConfigError(f"{self.name}: {self.unit} must be {range_of_unit}, not {size:g}")


def _of_cut(control: str, function: str) -> ExtractionMethod:
    """Return the row of a control of the cut patch at the same density."""
    row = CONTROLS[control]
    return ExtractionMethod(
        name=control,
        help=f"a control of the cut patch: {row.help}",
        target=f"{_FOLDER}controlled:extract_{function}",
        source=row.source,
        needs="labels",
        unit="density",
        sizes=(1e-4,),
        is_control=True,
    )


def _control(name: str, help: str, how: str, needs: Needs = "texts") -> ExtractionMethod:
    """Return the row of a refit on another support, or to other texts."""
    return ExtractionMethod(
        name=name,
        help=help,
        target=f"{_FOLDER}refitted:extract_{how}",
        needs=needs,
        unit="density",
        sizes=(1e-5, 1e-4, 1e-3),
        is_control=True,
    )


EXTRACTION_METHODS = Registry(
    "method of extraction",
    [
        ExtractionMethod(
            name="refit",
            help="a patch of few entries whose values are fitted to the tuned model's predictions",
            target=f"{_FOLDER}refitted:extract_refit",
            needs="texts",
            unit="density",
            sizes=(1e-5, 1e-4, 1e-3, 1e-2),
        ),
        _control("refit_attribution", "the same on those with the largest attribution", "by_attribution", "labels"),
        _control("refit_magnitude", "the same on the entries that moved most", "by_magnitude"),
        _control("refit_random", "the same on random entries", "by_random"),
        ExtractionMethod(
            name="refit_labels",
            help="refit to the tuned model's predictions and the labels, half each",
            target=f"{_FOLDER}refitted:extract_with_labels",
            needs="labels",
            unit="density",
            sizes=(1e-4,),
            is_control=True,
        ),
        ExtractionMethod(
            name="sparse_sft",
            help="the entries with the largest gradients, their values trained on the labels alone, without the tuned "
            "model",
            target=f"{_FOLDER}refitted:extract_sparse_sft",
            needs="labels",
            unit="density",
            sizes=(1e-5, 1e-4, 1e-3),
            is_control=True,
        ),
        ExtractionMethod(
            name="lt_sft",
            help="the entries that moved most, their values trained anew on the labels alone, as in LT-SFT",
            target=f"{_FOLDER}refitted:extract_lt_sft",
            source="https://arxiv.org/abs/2110.07560",
            needs="labels",
            unit="density",
            sizes=(1e-5, 1e-4, 1e-3),
            is_control=True,
        ),
        ExtractionMethod(
            name="refit_texts",
            help="refit at a density of 1e-4 to fewer or more texts",
            target=f"{_FOLDER}refitted:extract_from_texts",
            needs="texts",
            unit="texts",
            sizes=(64, 256, 1000, 4000),
            is_control=True,
        ),
        _control("refit_other_texts", "the same, fitted to the texts of another source, `other_texts`", "from_others"),
        ExtractionMethod(
            name="refit_again",
            help="refit at a density of 1e-4 with other draws of the texts and their order",
            target=f"{_FOLDER}refitted:extract_again",
            needs="texts",
            unit="draw",
            sizes=(1, 2, 3),
            is_control=True,
        ),
        ExtractionMethod(
            name="cut",
            help="a patch of the entries with the largest attribution",
            target=f"{_FOLDER}cut:extract_by_attribution",
            source="https://arxiv.org/abs/1703.01365",
            needs="labels",
            unit="density",
            sizes=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        ),
        _of_cut("vectors_only", "vectors"),
        _of_cut("random_in_tensors", "random_entries"),
        _of_cut("random_columns", "random_columns"),
        _of_cut("random_rows", "random_rows"),
        _of_cut("whole_columns", "whole_columns"),
        _of_cut("sparta", "sparta"),
        ExtractionMethod(
            name="magnitude",
            help="a patch of the entries that moved most",
            target=f"{_FOLDER}cut:extract_by_magnitude",
            source="https://arxiv.org/abs/2302.06600",
            needs="nothing",
            unit="density",
            sizes=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        ),
        ExtractionMethod(
            name="columns",
            help="a patch of the whole columns of matrices with the largest summed attribution",
            target=f"{_FOLDER}whole_lines:extract_columns",
            source="https://arxiv.org/abs/2310.17715",
            needs="labels",
            unit="columns",
            sizes=(4, 32, 256, 2048),
        ),
        ExtractionMethod(
            name="rows",
            help="the same of whole rows, the output dimensions",
            target=f"{_FOLDER}whole_lines:extract_rows",
            needs="labels",
            unit="rows",
            sizes=(4, 32, 256, 2048),
        ),
        ExtractionMethod(
            name="rank",
            help="a patch of the entries with the largest attribution that fit a LoRA of rank 8",
            target=f"{_FOLDER}whole_lines:extract_rank",
            needs="labels",
            unit="density",
            sizes=(1e-5, 1e-4, 1e-3, 1e-2),
        ),
        *(
            ExtractionMethod(
                name=f"refit_{name}",
                help=f"the entries of {name}, their values fitted to the tuned model's predictions",
                target=f"{_FOLDER}whole_lines:refit_{name}",
                needs="labels",
                unit=unit,
                sizes=sizes,
                is_control=True,
            )
            for name, unit, sizes in (
                ("columns", "columns", (4, 32, 256)),
                ("rows", "rows", (4, 32, 256)),
                ("rank", "density", (1e-5, 1e-4, 1e-3)),
            )
        ),
        ExtractionMethod(
            name="svd",
            help="truncated SVD of every changed matrix, factors in fp16, as mergekit extracts a LoRA",
            target=f"{_FOLDER}svd:extract_svd",
            source="https://arxiv.org/abs/2403.13257",
            needs="nothing",
            unit="rank",
            sizes=(1, 2, 4, 8, 16, 32, 64),
        ),
        ExtractionMethod(
            name="lora",
            help="a LoRA adapter of every linear layer, trained on the labels, factors in fp16",
            target=f"{_FOLDER}lora:extract_lora",
            source="https://arxiv.org/abs/2106.09685",
            needs="labels",
            unit="rank",
            sizes=(1, 8),
        ),
        ExtractionMethod(
            name="lora_qv",
            help="a LoRA adapter of the query and value projections alone, as first published, trained on the labels",
            target=f"{_FOLDER}lora:extract_lora_of_attention",
            source="https://arxiv.org/abs/2106.09685",
            needs="labels",
            unit="rank",
            sizes=(1, 8),
        ),
        ExtractionMethod(
            name="bitdelta",
            help="the signs of every changed matrix in a bit each, with their mean size as its scale",
            target=f"{_FOLDER}bitdelta:extract_signs",
            source="https://arxiv.org/abs/2402.10193",
            needs="nothing",
            unit="bits",
            sizes=(1, 2),
        ),
        ExtractionMethod(
            name="bitdelta_distilled",
            help="the same, with the scales fitted to the tuned model's predictions",
            target=f"{_FOLDER}distilled_scales:extract_distilled_signs",
            source="https://arxiv.org/abs/2402.10193",
            needs="texts",
            unit="bits",
            sizes=(1,),
            fits_logits=True,
        ),
        ExtractionMethod(
            name="ultradelta",
            help="matrices quantized to 4 bits, pruned by value and deflated, in the style of UltraDelta",
            target=f"{_FOLDER}ultradelta:extract_pruned",
            source="https://arxiv.org/abs/2505.13563",
            needs="nothing",
            unit="sparsity",
            sizes=(0.9, 0.97, 0.99, 0.997, 0.999, 0.9997),
        ),
        ExtractionMethod(
            name="dense",
            help="every difference, deflated",
            target=f"{_FOLDER}dense:extract_dense",
            needs="nothing",
            unit="bits",
            sizes=(16, 32),
        ),
    ],
)
