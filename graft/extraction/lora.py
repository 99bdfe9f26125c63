"""Trained LoRA (Hu et al., arXiv 2106.09685): an adapter learns the task anew from its labels.

It is no extraction, since the tuned checkpoint has no part in it; it is what people would train in place of one. The
same examples, loss and epochs as the tuned model's, by AdamW; the learning rate is that of a few which validates best.
The trained product has its rank exactly, so that its SVD gives the factors back, in fp16 as those of `svd`.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from graft.extraction.extracted import Extracted
from graft.extraction.inputs import ExtractionInput
from graft.extraction.svd import extract_svd
from graft.registry import name_number
from graft.specs.adapter import AdapterSpec
from graft.train.adapter import train_adapter, train_plainly

_QUERY_VALUE = r".*\b(query|value|q_proj|v_proj|q_lin|v_lin|q|v)"


def extract_lora(inputs: ExtractionInput, rank: float) -> Extracted:
    """Train an adapter of every linear layer."""
    return _train_best(inputs, AdapterSpec(rank=int(rank)))


def extract_lora_of_attention(inputs: ExtractionInput, rank: float) -> Extracted:
    """Train an adapter of the query and value projections."""
    return _train_best(inputs, AdapterSpec(rank=int(rank), targets=_QUERY_VALUE))


def _train_best(inputs: ExtractionInput, adapter: AdapterSpec) -> Extracted:
    """Train at every rate; return the one that is most accurate on validation, the first of several."""
    validated: dict[float, float] = {}
    try:
        for rate in inputs.config.lora_rates:
            config = dataclasses.replace(train_plainly(inputs.task.spec.train), optimizer="adamw", lr=rate)
            out = _folder_at(inputs, rate)
            train_adapter(inputs.base, inputs.task, out, adapter, config=config, runtime=inputs.runtime, force=True)
            validated[rate] = inputs.open(out).accuracy(inputs.task.validation_examples(), label="validation")
        best = max(validated, key=lambda rate: validated[rate])
        extracted = extract_svd(dataclasses.replace(inputs, tuned=_folder_at(inputs, best)), adapter.rank)
    finally:
        for rate in inputs.config.lora_rates:
            shutil.rmtree(_folder_at(inputs, rate), ignore_errors=True)
    return dataclasses.replace(extracted, found={"lr": best, "validation_accuracy": validated[best]})


def _folder_at(inputs: ExtractionInput, rate: float) -> Path:
    return inputs.folder / f"lora-{name_number(rate)}"
