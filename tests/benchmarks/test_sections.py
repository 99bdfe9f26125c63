"""The frame of the benchmarks: sections are found, replaced one by one, and refused where they cannot run."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.benchmarks import __main__ as frame
from tests.benchmarks.sections import SECTIONS, Section

ONE, TWO = (Section(name, f"Title {name}", f"Intro {name}.", "none") for name in ("one", "two"))


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "benchmarks.md"
    monkeypatch.setattr(frame, "SECTIONS", (ONE, TWO))
    monkeypatch.setattr(frame, "OUT", path)
    rows = iter([{"what": "a", "n": 1000}, {"what": "b", "n": 2, "ratio": 0.5}] for _ in range(9))
    monkeypatch.setattr(Section, "measure", lambda self: [{"section": self.name}, *next(rows)])
    return path


def test_a_named_section_replaces_its_own_text_alone(out: Path) -> None:
    frame.main(["two"])
    frame.main([])
    whole = out.read_text()
    assert [line for line in whole.splitlines() if line.startswith("## ")] == ["## Title one", "## Title two"]
    assert "| section | what | n | ratio |" in whole
    assert "|  | a | 1,000 |  |" in whole
    out.write_text(whole.replace("Intro one.", "Kept.").replace("Intro two.", "Replaced."))
    frame.main(["two"])
    assert out.read_text() == whole.replace("Intro one.", "Kept.")


def test_what_cannot_run_is_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        frame.main(["three"])
    assert "no section 'three'; there are one, two" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="1"):
            frame.main(["--gpu"])
        assert "there is no CUDA GPU here" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_every_section_can_be_called_with_its_options(section: Section) -> None:
    measure = importlib.import_module(f"tests.benchmarks.{section.module}").measure
    inspect.signature(measure).bind(**section.options, **({"device": "cuda"} if section.on_gpu else {}))


def test_sections_have_names_and_titles_of_their_own() -> None:
    assert len({section.name for section in SECTIONS}) == len({section.title for section in SECTIONS}) == len(SECTIONS)


def test_an_interrupted_section_leaves_the_rows_that_it_had(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(section: Section) -> Iterator[dict[str, object]]:
        yield {"what": section.name, "n": 1}
        raise KeyboardInterrupt

    monkeypatch.setattr(Section, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        frame.main(["one"])
    assert "| one | 1 |" in out.read_text()
    assert "Not finished" in out.read_text()
    monkeypatch.setattr(Section, "measure", lambda section: iter([{"what": section.name, "n": 2}]))
    frame.main(["one"])
    assert "Not finished" not in out.read_text()
