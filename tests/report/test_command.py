from __future__ import annotations

import json
from pathlib import Path

import pytest
from graft_cli.entry import main

from tests.report.runs import write_run


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["report", *map(str, arguments)])
    return left.value.code, *capsys.readouterr()


def test_the_command_says_what_the_runs_showed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, page = write_run(tmp_path / "run", seeds=1), tmp_path / "report.html"
    code, out, err = run(capsys, folder, "-o", page)
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 3)
    assert lines[0].startswith("toy: 40 of 4,000 weights (1 %) recover ")
    assert lines[1:] == [f"wrote {page}", "wrote 6 plots into report_plots"]
    code, out, err = run(capsys, folder, "-o", page)
    assert (code, out) == (1, "")
    assert err == f"error: {page} exists already: choose another name or pass --force to overwrite it\n"
    code, out, err = run(capsys, folder, "-o", page, "--force", "--json")
    result = json.loads(out)
    assert (code, err, list(result)) == (0, "", ["page", "plots", "headlines"])
    assert sorted(result["plots"]) == sorted(str(path) for path in (tmp_path / "report_plots").iterdir())


def test_a_stranger_s_folder_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text('{"recipe": {"name": 3}, "seeds": []}')
    code, out, err = run(capsys, tmp_path, "-o", tmp_path / "new" / "report.html")
    assert (code, out) == (1, "")
    assert err == f"error: {tmp_path / 'results.json'}: seeds: holds no seed\n"
    assert not (tmp_path / "new").exists()


def test_without_a_folder_it_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "-o", tmp_path / "report.html")
    assert (code, out) == (2, "")
    assert "Missing argument 'DIR...'" in err


def test_a_folder_that_is_not_a_reports_plots_stays_with_force_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page, plots = write_run(tmp_path / "run", seeds=1), tmp_path / "report.html", tmp_path / "report_plots"
    run(capsys, folder, "-o", page)
    assert run(capsys, folder, "-o", page, "--force")[0] == 0  # the control: a report's own are replaced
    for name in ("photo.png", "notes.txt", "a/b.png"):
        (plots / name).parent.mkdir(exist_ok=True)
        (plots / name).write_text("mine")
        code, _, err = run(capsys, folder, "-o", page, "--force")
        assert (code, err) == (
            1,
            f"error: {plots} holds more than a report's plots: move it, or choose another name for the page\n",
        ), name
        assert (plots / name).read_text() == "mine"
        (plots / name).unlink()


def test_the_results_of_a_run_are_not_overwritten_but_a_page_among_them_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", seeds=1)
    before = (folder / "results.json").read_bytes()
    for name in ("run", "run/results.json"):
        assert run(capsys, folder, "-o", tmp_path / name, "--force")[0] == 1
    assert (folder / "results.json").read_bytes() == before
    for _ in range(2):
        assert run(capsys, folder, "-o", folder / "page.html", "--force")[0] == 0
