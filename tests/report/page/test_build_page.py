from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from graft.errors import DataError, OutputError
from graft.report.page.build_page import WrittenReport, write_report
from graft.report.page.headline import state_result
from graft.report.page.run_page import share_of
from graft.report.run_folder import read_run
from tests.report.page.test_markup import Reader
from tests.report.runs import read_results, write_results, write_run

SECTIONS = {
    "reliability": "Does it know what it knows?",
    "differences": "Who is ahead?",
    "ood": "Out of distribution",
    "controls": "Did it merely move less?",
    "two sides": "Enough, and needed?",
    "curve": "How much is enough?",
    "layers": "Where does it live?",
    "explanation": "What is it made of?",
    "detection": "Out-of-distribution detection",
    "diagnosis": "Does this checkpoint localize?",
}
EVIL = "<script>alert('x')</script>&\"$x_{$\x00\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def written(place: Path) -> WrittenReport:
    """The page of a run that has everything."""
    return write_report([write_run(place / "run")], place / "report.html")


@pytest.fixture(scope="module")
def text(written: WrittenReport) -> str:
    return written.page.read_text(encoding="utf-8")


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are composed, but not rendered, which is what takes the time."""
    blank = b"\x89PNG\r\n\x1a\n" + bytes(7) + b"\x09" * 9
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **__: Path(file).write_bytes(blank))


def titles(page: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", page)


def test_every_section_is_there_in_order(text: str) -> None:
    assert titles(text) == ["Base, tuned, grafts", *SECTIONS.values()]


def test_the_headline_is_what_the_seeds_say(written: WrittenReport, place: Path, text: str) -> None:
    gains = [seed["models"]["graft (learned)"]["recovered_gain"] for seed in read_results(place / "run")["seeds"]]
    line = written.headlines["toy"]
    assert line.startswith(f"40 of 4,000 weights (1 %) recover {sum(gains) / 3:.3f}".replace(" 0.", " ."))
    assert line.endswith("better calibrated.")
    assert line.replace(" ± ", "\u00a0±\u00a0") in text


def test_areas_stand_below_the_curves(text: str) -> None:
    section = text[text.index("How much is enough?") :]
    assert section.index("area under the curve") < section.index("The curves as numbers")
    assert "sufficiency" in section


def test_it_is_self_contained(text: str) -> None:
    found = Reader(text)
    assert not {tag for tag, _ in found.tags} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "source",
    }
    addresses = [
        value for _, attributes in found.tags for key, value in attributes.items() if key in ("src", "href", "srcset")
    ]
    assert len(addresses) == 6
    assert all(address and address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    assert not re.search(r"url\(|@import|https?:", text)
    policy = next(attributes for _, attributes in found.tags if "http-equiv" in attributes)
    assert str(policy["content"]).startswith("default-src 'none'; img-src data:;")


def test_it_is_made_for_phones_darkness_and_ears(text: str) -> None:
    found = Reader(text)
    metas = {attributes["name"]: attributes["content"] for tag, attributes in found.tags if "name" in attributes}
    assert metas == {"viewport": "width=device-width, initial-scale=1", "color-scheme": "light dark"}
    assert "@media(prefers-color-scheme:dark)" in text
    pictures = [attributes for tag, attributes in found.tags if tag == "img"]
    assert len(pictures) == 6
    assert all(len(str(picture["alt"])) > 40 for picture in pictures)
    boxes = text.count('<div class="scroll"')
    assert boxes == text.count("<table") + text.count("<img")


def test_tags_are_closed(text: str) -> None:
    page = re.sub(r"<(meta|img)([^>]*)>", r"<\1\2/>", text.removeprefix("<!doctype html>\n"))
    ElementTree.fromstring(page)


def test_pictures_are_turned_dark_with_the_page(text: str) -> None:
    assert "@media(prefers-color-scheme:dark){img{filter:invert(" in text


def test_plots_lie_beside_it(written: WrittenReport, place: Path) -> None:
    names = {"reliability", "differences", "controls", "sufficiency-necessity", "curves", "layers"}
    assert {path.name for path in written.plots} == {f"toy-{name}.png" for name in names}
    assert {path.parent for path in written.plots} == {place / "report_plots"}
    assert all(path.stat().st_size > 1000 for path in written.plots)


def test_the_same_runs_give_the_same_bytes(written: WrittenReport, place: Path) -> None:
    again = write_report([place / "run"], place / "again.html")
    assert again.page.read_bytes() == written.page.read_bytes()
    for left, right in zip(written.plots, again.plots, strict=True):
        assert left.read_bytes() == right.read_bytes()


def drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(seed: dict[str, Any]) -> None:
        for key in keys:
            del seed[key]

    return change


def drop_models(seed: dict[str, Any]) -> None:
    for name in [name for name in seed["models"] if name not in ("base", "tuned", "graft (learned)")]:
        del seed["models"][name]


def drop_sets(seed: dict[str, Any]) -> None:
    for report in seed["models"].values():
        del report["ood"]


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("change", "gone"),
    [
        (drop("bins", "curve"), {"reliability", "curve"}),
        (drop("differences", "detection", "diagnosis"), {"differences", "detection", "diagnosis"}),
        (drop_models, {"two sides", "controls"}),
        (drop_sets, {"ood"}),
    ],
)
def test_what_was_not_measured_is_left_out(
    change: Callable[[dict[str, Any]], None], gone: set[str], tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", seeds=1, patch=False)
    results = read_results(folder)
    change(results["seeds"][0])
    write_results(folder, results)
    written = write_report([folder], tmp_path / "r.html")
    text = written.page.read_text()
    left = [title for name, title in SECTIONS.items() if name not in gone | {"layers", "explanation"}]
    assert titles(text) == ["Base, tuned, grafts", *left]
    assert len(written.plots) == text.count("<img")


@pytest.mark.usefixtures("unrendered")
def test_where_tuning_gained_nothing_no_model_has_a_recovered_gain(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", seeds=2, patch=False)
    cells = re.compile(r'<th scope="row">(base|tuned|graft \(learned\))</th>(?:<td>.*?</td>){2}<td>(.*?)</td>')

    def gains(page: str) -> list[tuple[str, str]]:
        text = write_report([folder], tmp_path / page).page.read_text(encoding="utf-8")
        return cells.findall(text)[:3]

    assert [text for _, text in gains("gained.html")[:2]] == ["0", "1"]
    results = read_results(folder)
    results["seeds"][1]["models"]["tuned"]["accuracy"] = 0.5  # below the base's
    write_results(folder, results)
    assert gains("lost.html") == [(name, "–") for name in ("base", "tuned", "graft (learned)")]


def test_whatever_a_file_says_is_text(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", EVIL, seeds=2, patch=False)
    results = read_results(folder)
    results["missed"] = [EVIL]
    results["recipe"][EVIL] = EVIL
    for seed in results["seeds"]:
        for key in ("bins", "curve"):
            del seed[key]
        seed["diagnosis"] = {"text": [EVIL], EVIL: 3}
        for part in ("models", "differences", "controls"):
            seed[part][EVIL] = seed[part]["interpolation"]
        for part in (seed["models"], seed["differences"]):
            part["tuned without (learned)"][EVIL] = 1 if part is seed["models"] else {}
        seed["detection"] = {EVIL: {EVIL: seed["detection"]["novel"]["tuned"]}}
    write_results(folder, results)
    page = write_report([folder], tmp_path / "r.html").page.read_text()
    assert page.count("&lt;script&gt;") > 10
    assert "<script" not in page
    assert "\x00" not in page
    assert not {tag for tag, _ in Reader(page).tags} & {"script"}


@pytest.mark.usefixtures("unrendered")
def test_several_runs_begin_with_an_overview(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, name, seeds=2, patch=False) for name in ("one", "two")]
    text = write_report(folders, tmp_path / "r.html").page.read_text()
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", text) == ["All tasks at a glance", "one", "two"]
    overview = text[text.index("All tasks at a glance</h2>") : text.index(">one</h2>")]
    assert re.findall(r'<th scope="row"><a href="#run-\d">(\w+)</a>', overview) == ["one", "two"]
    assert {"gain, learned", "gain, attribution", "gain, magnitude", "gain, random"} <= set(Reader(overview).texts)
    assert "Against random: ahead on 2 of 2, mean +.2" in overview
    assert re.search(r"Against attribution: tied on \d", overview)
    assert overview.count('alt="Forest plot') == 2


@pytest.mark.usefixtures("unrendered")
def test_sizes_that_differ_by_seed_are_told_with_their_mean(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, name, seeds=2) for name in ("one", "two")]
    results = read_results(folders[0])
    results["seeds"][1]["k"] = 60  # of the first 40
    write_results(folders[0], results)
    written = write_report(folders, tmp_path / "r.html")
    assert written.headlines["one"].startswith("50 (40 to 60 by seed) of 4,000 weights (1.25 %) recover")
    assert written.headlines["two"].startswith("40 of 4,000 weights (1 %) recover")
    overview, run = written.page.read_text(encoding="utf-8").split(">one</h2>")
    assert "50 (40 to 60 by seed)" in Reader(overview).texts
    tile = run[run.index("weights in the patch") :]
    assert Reader(tile[: tile.index("of the gain recovered")]).texts[1:4] == [
        *("50", "(40 to 60 by seed)", "1.25 % of 4,000"),
    ]


@pytest.mark.parametrize(
    ("localize", "said"),
    [
        ({"method": "learned"}, "40 weights (1 %) recover"),
        ({"method": "paper"}, "40 weights recover"),  # which sizes itself
        ({"method": "learned", "structure": "columns"}, "40 weights recover"),  # as many lines as fit
    ],
)
def test_a_density_that_was_asked_for_is_told_of_a_patch_that_has_it(
    localize: dict[str, str], said: str, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", seeds=1, patch=False)  # nothing tells how many weights there are
    results = read_results(folder)
    results["recipe"]["localize"] |= localize
    name = f"graft ({localize['method']})"
    results["models"][name] = {"role": "graft", "method": localize["method"]}
    models = results["seeds"][0]["models"]
    models[name] = models["graft (learned)"]
    write_results(folder, results)
    run = read_run(folder)
    assert state_result(run, share_of(run, None)).startswith(said)


@pytest.mark.usefixtures("unrendered")
def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name / "x", seeds=1, patch=False) for name in ("a", "b")]
    written = write_report([*folders, shutil.copytree(folders[0], tmp_path / "y")], tmp_path / "r.html")
    assert list(written.headlines) == ["toy (x) #1", "toy (x) #2", "toy (y)"]
    assert len(set(written.plots)) == len(written.plots) > 0


def test_nothing_is_overwritten_or_half_written(written: WrittenReport, place: Path, tmp_path: Path) -> None:
    before = written.page.read_bytes()
    with pytest.raises(OutputError, match=r"report\.html exists already"):
        write_report([place / "run"], written.page)
    (tmp_path / "r_plots").mkdir()
    with pytest.raises(OutputError, match="r_plots exists already"):
        write_report([place / "run"], tmp_path / "r.html")
    (tmp_path / "r_plots").rmdir()
    with pytest.raises(DataError):
        write_report([place / "run", tmp_path / "gone"], tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []
    assert written.page.read_bytes() == before


def test_controls_of_the_patch_have_a_section_of_their_own(place: Path, unrendered: None, text: str) -> None:
    run = write_run(place / "controlled", patch=False)
    results = read_results(run)
    for seed in results["seeds"]:
        for part in (seed["models"], seed["bins"], seed["differences"]):
            part["graft (random_rows)"] = part["graft (magnitude)"]
    results["models"]["graft (random_rows)"] = {"role": "graft", "method": "random_rows"}
    write_results(run, results)
    page = write_report([run], place / "controlled.html").page.read_text(encoding="utf-8")
    assert "Which columns, which rows?" in titles(page)
    assert "Which columns, which rows?" not in titles(text)  # of a run that has none
    part = page[page.index("Which columns, which rows?") :]
    assert "by random rows of its own columns" in part
    gains = [
        [seed["models"][f"graft ({m})"]["recovered_gain"] for m in ("magnitude", "learned")]
        for seed in results["seeds"]
    ]
    share = sum(one / other for one, other in gains) / len(gains)
    assert f"{100 * share:.0f} ±" in part.replace("\u00a0", " ")
