"""The measuring of the code's shape, on a checkout of three small modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shape import measure_shape, write_table

ONE = '''"""A module."""

from graft.two import answer  # a comment


def ask() -> int:
    """Return the answer."""

    def hidden() -> int:
        return answer()

    return hidden()
'''
TWO = """TABLE = "graft.three:late"


# another comment
def answer() -> int:
    return 42
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    files = {
        "graft/__init__.py": '"""A docstring alone."""\n',
        "graft/one.py": ONE,
        "graft/two.py": TWO,
        "graft/three.py": "import graft.one\n\nlate = 1\n",
        "cli/graft_cli/__init__.py": "import graft.one\nimport graft.two\n",
        "tests/test_one.py": "x = 1\ny = 2\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_each_measure_is_what_a_count_by_hand_gives(checkout: Path) -> None:
    assert measure_shape(checkout) == {
        "files / lines": "4 / 23",  # 12 + 6 + 3 + 2; the lone docstring is no file
        "function median / p90 / max": "2 / 7 / 7",  # ask, hidden, answer
        "public functions documented": "33%",  # ask is; hidden and answer are not
        "comments per 100 lines": "8.7",
        "file median / max": "4 / 12",
        "importers of a module, median / max": "2 / 2",  # one: 2, two: 2, three: 1 by its name in a table, cli: none
        "modules with one importer": "1",
        "of these under 60 lines": "1",
        "tests : source, lines": "0.09",
    }


def test_the_table_is_markdown(checkout: Path) -> None:
    lines = write_table(measure_shape(checkout)).splitlines()
    assert lines[:3] == ["| graft/ + cli/ | |", "|---|---|", "| files / lines | 4 / 23 |"]


def test_a_folder_without_code_measures_nothing(tmp_path: Path) -> None:
    assert measure_shape(tmp_path)["files / lines"] == "0 / 0"
