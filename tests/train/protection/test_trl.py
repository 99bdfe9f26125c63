"""Protection within TRL's SFTTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

import graft
from tests.checkpoints import small_llama
from tests.models import word_tokenizer
from tests.train.protection.test_callback import bits, mask_of, moved, rows


def make_trainer(folder: Path, callbacks: list[Any], **more: Any) -> SFTTrainer:
    given = {"max_steps": 6, "learning_rate": 0.01, "weight_decay": 0.1, "gradient_accumulation_steps": 2} | more
    config = SFTConfig(
        str(folder), report_to=[], use_cpu=True, bf16=False, disable_tqdm=True, save_strategy="no", **given
    )
    data = Dataset.from_list([{"input_ids": row["input_ids"].tolist()} for row in rows()])
    return SFTTrainer(
        small_llama(tied=True),
        config,
        train_dataset=data,
        processing_class=word_tokenizer(eos_token="[SEP]"),
        callbacks=callbacks,
    )


@pytest.mark.parametrize(
    ("part", "packing"), [(slice(None, None, 3), False), (slice(5, None), True)], ids=["some", "most, packed"]
)
def test_supervised_fine_tuning_leaves_the_core_alone(part: slice, packing: bool, tmp_path: Path) -> None:
    before, mask = bits(small_llama(tied=True)), mask_of(small_llama(tied=True), part)
    free = make_trainer(tmp_path, [], packing=packing)
    free.train()
    assert moved(before, bits(free.model), mask) > 0.6 * len(mask)  # the control
    kept = make_trainer(tmp_path, [graft.ProtectionCallback(mask)], packing=packing)
    kept.train()
    assert moved(before, bits(kept.model), mask) == 0
    assert moved(before, bits(kept.model), mask.complement(mask.specs)) > 0
