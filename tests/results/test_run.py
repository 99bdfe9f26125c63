from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from graft.errors import DataError
from graft.recipes.registry import KINDS
from graft.results.fields import to_json
from graft.results.json_node import Node
from graft.results.layout import PATCHES, RESULTS, TABLES, patch_path, split_patch_path
from graft.results.models import graft_name, guess_model, name_models, without_name
from graft.results.run import SEEDS, load_results, read_results
from graft.results.tables import TextTable, to_markdown
from tests.report.runs import read_results as read_json
from tests.report.runs import write_run

ROOT = Path(__file__).parents[2]
COMMITTED = sorted(file.parent for file in ROOT.glob("artifacts/*/results.json"))


def test_there_are_runs_to_read() -> None:
    if not (ROOT / "artifacts").is_dir():
        pytest.skip("there is no artifacts/ here")
    assert len(COMMITTED) > 15
    assert {load_results(run).kind for run in COMMITTED} == set(KINDS)
    assert set(SEEDS) == set(KINDS)


@pytest.mark.parametrize("run", COMMITTED, ids=[run.name for run in COMMITTED])
def test_a_committed_run_has_the_layout_and_the_schema_of_one_that_is_written(run: Path) -> None:
    results = load_results(run)
    assert json.loads((run / RESULTS).read_text())["schema"] == 1
    assert to_markdown(results.tables) + "\n" == (run / TABLES).read_text()
    assert not {path.suffix for path in run.iterdir() if path.is_file()} - {".json", ".md", ".png"}
    assert {path.name for path in run.iterdir() if path.is_dir()} <= {PATCHES}
    assert all(split_patch_path(file) for file in run.glob(f"{PATCHES}/*"))
    again = read_results(Node(json.loads(json.dumps(to_json(results))), run / RESULTS))
    assert to_json(again) == to_json(results)


def test_results_go_out_and_come_in_the_same(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", patch=False)
    results = load_results(run)
    assert results.models["tuned without (random)"].role == "without"
    assert results.to_json()["seeds"] == read_json(run)["seeds"]
    table = TextTable(["a", "b"], [["x", "1"]])
    more = dataclasses.replace(results, tables=("A text.", table), missed=("too low",), more={"pooled": {"x": 1}})
    assert to_json(read_results(Node(more.to_json(), run / RESULTS))) == more.to_json()


def test_results_from_before_the_schema_are_told_apart_by_their_keys() -> None:
    for keys, kind in (({}, "single"), ({"tasks": ["a"]}, "multitask"), ({"domains": ["a"]}, "forgetting")):
        found = read_results(Node({"recipe": {"name": "r", **keys}, "seeds": []}, Path("r.json")))
        assert (found.kind, found.tables) == (kind, ())


def test_a_newer_schema_is_refused() -> None:
    with pytest.raises(DataError, match=re.escape("r.json: schema: must be 1, the schema that this version reads, no")):
        read_results(Node({"schema": 2, "recipe": {"name": "r"}, "seeds": []}, Path("r.json")))


def test_names_of_models_and_of_patches_lead_back_to_what_they_name(tmp_path: Path) -> None:
    models = name_models(["learned", "random"])
    assert models[graft_name("learned")].method == models[without_name("learned")].method == "learned"
    assert {name: guess_model(name).role for name in models} == {name: model.role for name, model in models.items()}
    assert split_patch_path(patch_path(tmp_path, "shared-a-seed-1", 12)) == (tmp_path, "shared-a-seed-1")
    assert split_patch_path(tmp_path / "learned-seed-0.safetensors") is None
    assert split_patch_path(tmp_path / PATCHES / "learned.safetensors") is None


def test_a_table_is_markdown_with_aligned_columns() -> None:
    table = TextTable(["model", "n"], [["a", "12"]])
    assert table.to_markdown().splitlines() == ["| model | n  |", "|-------|----|", "| a     | 12 |"]
    assert to_markdown(["One.", table]).startswith("One.\n\n| model")
