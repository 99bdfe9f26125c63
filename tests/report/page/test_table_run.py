from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import pytest

from graft.errors import DataError
from graft.report.page.build_page import write_report
from graft.report.page.table_run import read_table_run
from graft.report.plots.style import in_style, new_figure, save_figure
from tests.report.runs import write_run

TABLES = [
    "Rows of <test>: a 100.",
    {"head": ["method", "accuracy"], "rows": [["base", ".500 ± .000"], ["<b>", ".700 ± .010"]]},
    "By task:",
    {"head": ["method", "a", "b"], "rows": [["base", ".400", ".600"]]},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "several"
    place.mkdir()
    recipe = {"name": "several", "tasks": ["a.yaml", "b.yaml"]}
    results = {"schema": 1, "kind": "multitask", "recipe": recipe, "seeds": [], "tables": TABLES}
    (place / "results.json").write_text(json.dumps(results), encoding="utf-8")
    with in_style():
        save_figure(new_figure(2, 1), place / "overlap")
    return place


def test_the_page_holds_tables_and_plots(folder: Path, tmp_path: Path) -> None:
    written = write_report([folder], tmp_path / "report.html")
    page = written.page.read_text(encoding="utf-8")
    assert written.headlines == {"several": "methods compared: 2 tables, 1 plots"}
    assert page.count("<table>") == 2
    assert "<td>.700 ± .010</td>" in page
    assert "<p>By task:</p>" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "Rows of &lt;test&gt;: a 100." in page
    found = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert found
    assert base64.b64decode(found[1]) == (folder / "overlap.png").read_bytes()
    assert "http://" not in page
    assert "https://" not in page


def test_two_runs_of_one_recipe_wear_the_names_of_their_folders(folder: Path, tmp_path: Path) -> None:
    again = shutil.copytree(folder, tmp_path / "again")
    written = write_report([folder, again], tmp_path / "report.html")
    assert list(written.headlines) == ["several (several)", "several (again)"]
    assert "several (again)" in written.page.read_text(encoding="utf-8")


def test_it_stands_beside_the_run_of_a_skill(folder: Path, tmp_path: Path) -> None:
    written = write_report([folder, write_run(tmp_path / "run")], tmp_path / "report.html")
    page = written.page.read_text(encoding="utf-8")
    assert list(written.headlines) == ["toy", "several"]
    assert re.findall(r'<a href="#(run-\d)">', page) == ["run-1", "run-2"]
    assert all(f'id="run-{i}"' in page for i in (1, 2))


def test_a_run_of_one_skill_is_none(tmp_path: Path) -> None:
    assert read_table_run(write_run(tmp_path / "run")) is None


def test_results_from_before_the_schema_show_their_tables_as_text(folder: Path, tmp_path: Path) -> None:
    recipe = {"name": "several", "domains": ["a.yaml"]}
    (folder / "results.json").write_text(json.dumps({"recipe": recipe, "seeds": []}), encoding="utf-8")
    (folder / "table.md").write_text("a | b\n1 | <2>", encoding="utf-8")
    page = write_report([folder], tmp_path / "report.html").page.read_text(encoding="utf-8")
    assert "<pre>a | b\n1 | &lt;2&gt;</pre>" in page
    (folder / "table.md").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"table.md"):
        write_report([folder], tmp_path / "again.html")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("overlap.png", b"\xff\xfe"),
        ("results.json", b'{"kind": "multitask", "recipe": {"name": "x"}, "seeds": [], "tables": [{"head": [1]}]}'),
        ("results.json", b'{"schema": 2, "recipe": {"name": "x"}, "seeds": []}'),
    ],
)
def test_what_is_broken_is_one_line_and_nothing_is_written(
    folder: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        write_report([folder], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
