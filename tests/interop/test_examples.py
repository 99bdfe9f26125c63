"""The scripts under examples/ do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from graft.localize.diff import diff_checkpoints
from graft.patch.format.writing import save_patch

EXAMPLES = Path(__file__).parents[2] / "examples"


def functions_of(name: str) -> dict[str, Any]:
    if not EXAMPLES.is_dir():
        pytest.skip("there is no examples folder: the tests run from an installed package")
    return runpy.run_path(str(EXAMPLES / name))


def test_a_pipeline_has_the_skill_within_the_graft_alone(base: Path, tuned: Path, tmp_path: Path) -> None:
    save_patch(diff_checkpoints(base, tuned), tmp_path / "skill")
    compare = functions_of("pipeline.py")["compare_outputs"]
    texts = ["the film was good", "a dull plot"]
    before, grafted, after = compare("feature-extraction", str(base), str(tmp_path / "skill"), texts)
    assert before == after
    assert grafted == pipeline("feature-extraction", model=str(tuned))(texts)
    assert grafted != before
