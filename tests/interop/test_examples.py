"""The scripts under examples/ do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from graft.localize.diff import diff_checkpoints
from graft.patch.format.writing import save_patch
from tests.mixture.routing.planted import TOPICS, own_texts, plant
from tests.models import write_rows

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


def test_the_table_of_precisions_has_a_row_each(tmp_path: Path) -> None:
    functions = functions_of("precision.py")
    cost = {"losses": [1.0, 0.5, 0.25, 0.25], "validation": [0.5, 0.75], "minutes": 2.0, "peak": 2**31}
    seeds = [{name: cost | {"moved": 0.1, "accuracy": 0.8, "nll": 0.6} for name in functions["SETTINGS"]}] * 2
    functions["write_table"](seeds, tmp_path / "table.md", "models/base", [0, 1])
    rows = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == ["pure", "mixed", "full", "fp32, not rounded"]
    assert rows[0].endswith(
        "| 0.250 ± 0.000 | 0.1000 ± 0.0000 | 0.800 ± 0.000 | 0.600 ± 0.000 | 2.0 ± 0.0 | 2.00 ± 0.00 |"
    )


def test_routing_judges_every_method_on_the_same_texts(tmp_path: Path) -> None:
    functions = functions_of("routing.py")
    (tmp_path / "clinc150").mkdir()
    (tmp_path / "clinc150_oos").mkdir()
    for split, n, start in (("train", 210, 0), ("validation", 110, 1000), ("test", 60, 2000)):
        rows = [{"text": text, "domain": topic} for topic in TOPICS for text in own_texts(topic, n, start)]
        write_rows(tmp_path / "clinc150" / f"{split}.jsonl", rows)
    write_rows(tmp_path / "clinc150_oos" / "test.jsonl", [{"text": text} for text in own_texts("nothing", 60)])
    found = functions["run_seed"](plant, tmp_path, {topic: own_texts(topic, 3, 3000) for topic in TOPICS}, 0)
    assert 0.85 < found["router, 95%"]["right"] < 1
    assert found["router, 95%"]["right"] + found["router, 95%"]["lost"] == 1
    assert [found["router, 95%"][key] for key in ("novel", "withheld", "auroc")] == [1, 1, 1]
    assert found["nearest mean, no threshold"]["right"] == 1
    assert found["nearest mean, no threshold"]["novel"] == found["random skill"]["novel"] == 0
    assert found["random skill"]["right"] < 0.5
    table = functions["format_table"]([found, found])
    assert len(table.splitlines()) == 2 + len(found)


def test_trained_heads_are_judged_on_the_texts_of_the_others_and_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))  # where a script finds its neighbour
    functions = functions_of("routing_trained.py")
    domains = [("films", "film actor scene"), ("meals", "soup bread salad")]
    intents = [(name, word) for name, words in domains for word in words.split()]
    texts = [f"the {word} was {end} {n}" for n in range(120) for end in ("good", "bad") for _, word in intents]
    rows = [{"text": text, "domain": intents[i % 6][0], "label": i % 6} for i, text in enumerate(texts)]
    (tmp_path / "clinc150").mkdir()
    for split in ("train", "validation"):
        write_rows(tmp_path / "clinc150" / f"{split}.jsonl", rows)
    write_rows(tmp_path / "clinc150" / "test.jsonl", rows[:60])
    (tmp_path / "clinc150_oos").mkdir()
    write_rows(tmp_path / "clinc150_oos" / "test.jsonl", [{"text": f"nothing {n}"} for n in range(30)])
    run = lambda: functions["run_seed"](str(base), tmp_path, [w for _, w in intents], tmp_path / "skills", 0)  # noqa: E731
    found = run()
    assert set(found) == {"own trained head, msp", "own trained head, energy"}
    for scores in found.values():
        assert all(0 <= score <= 1 for score in scores.values())
        assert scores["right"] + scores["lost"] <= 1
    assert {path.parent.name for path in (tmp_path / "skills").glob("*/tuned")} == {"films-0", "meals-0"}
    monkeypatch.setitem(functions["run_seed"].__globals__, "train_task", None)
    assert run() == found  # from the skills that are there
