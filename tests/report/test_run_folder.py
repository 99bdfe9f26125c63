from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.errors import DataError, PatchFormatError
from graft.report.run_folder import read_run
from tests.report.runs import MODELS, read_results, write_results, write_run

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tests read and do not write."""
    return write_run(tmp_path_factory.mktemp("runs") / "whole", seeds=2)


def test_everything_is_read(whole: Path) -> None:
    run = read_run(whole)
    assert (run.name, run.main, len(run.seeds)) == ("toy", "graft (learned)", 2)
    assert run.settings["localize.density"] == "0.01"
    assert run.settings["seeds"] == "0, 1"
    seed, stored = run.seeds[1], read_results(whole)["seeds"][1]
    assert list(seed.models) == list(MODELS)
    assert list(seed.models["tuned"]) == ["test", "near", "far"]
    assert seed.models["tuned"]["far"].numbers["nll"] == stored["models"]["tuned"]["ood"]["far"]["nll"]
    assert list(seed.models["tuned"]["far"].intervals["ece"]) == stored["models"]["tuned"]["ood"]["far"]["ci"]["ece"]
    assert vars(seed.differences["tuned"]["near"]["ece"]) == stored["differences"]["tuned"]["near"]["ece"]
    assert seed.bins["base"].count.tolist() == stored["bins"]["base"]["count"]
    assert vars(seed.controls["interpolation"]) == stored["controls"]["interpolation"]
    assert seed.curve[5].numbers["ece"] == stored["curve"][5]["ece"]
    assert seed.detection["novel"]["tuned"]["energy.fpr95"] == stored["detection"]["novel"]["tuned"]["energy"]["fpr95"]
    assert seed.diagnosis
    assert list(seed.diagnosis.text) == stored["diagnosis"]["text"]
    assert seed.diagnosis.numbers == {"kurtosis": 119.0}
    patch = run.patch()
    assert patch
    assert patch.provenance.base.n_parameters == 4000


def test_the_patch_may_be_absent_or_broken(whole: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "flat", patch=False)
    assert read_run(folder).patch() is None
    (folder / "patches").mkdir()
    file = folder / "patches" / "learned-seed-0.safetensors"
    file.write_bytes((whole / "patches" / file.name).read_bytes())
    assert read_run(folder).patch() is not None
    file.write_bytes(b"junk")
    with pytest.raises(PatchFormatError, match=r"learned-seed-0\.safetensors"):
        read_run(folder).patch()


def test_a_method_leads_to_no_other_folder(whole: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", seeds=1, patch=False)
    results = read_results(folder)
    results["recipe"]["localize"]["method"] = name = f"../../{whole.parent.name}/whole/patches/learned"
    results["seeds"][0]["models"][f"graft ({name})"] = results["seeds"][0]["models"]["tuned"]
    write_results(folder, results)
    (tmp_path / whole.parent.name).symlink_to(whole.parent)
    (folder / "patches").mkdir()
    assert (folder / "patches" / f"{name}-seed-0.safetensors").is_file()  # the way there exists
    assert read_run(folder).patch() is None


def test_what_is_absent_null_or_unknown_does_no_harm(whole: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "run").mkdir()
    results = read_results(whole)
    for key in ("controls", "curve", "detection", "diagnosis", "seconds", "differences", "bins"):
        results["seeds"][0].pop(key)
        results["seeds"][1][key] = None
    results["seeds"][0]["weather"] = {"sunny": [True]}
    del results["missed"]
    write_results(folder, results)
    for seed in read_run(folder).seeds:
        parts = (seed.controls, seed.curve, seed.detection, seed.diagnosis, seed.seconds, seed.differences, seed.bins)
        assert not any(parts)


BROKEN: dict[str, tuple[str, Change]] = {
    "no recipe": ("the key 'recipe' is missing", lambda r: r.pop("recipe")),
    "no seeds": ("seeds: holds no seed", lambda r: r.update(seeds=[])),
    "seeds as a text": ("seeds: must be a list, not 'x'", lambda r: r.update(seeds="x")),
    "a seed as a number": ("seeds.0: must be a mapping, not 3", lambda r: r["seeds"].__setitem__(0, 3)),
    "half a k": ("seeds.0.k: must be a whole number, not 2.5", lambda r: r["seeds"][0].update(k=2.5)),
    "a negative seed": ("seeds.0.seed: must be a whole number", lambda r: r["seeds"][0].update(seed=-1)),
    "no base": ("seed 0: models: holds no 'base'", lambda r: r["seeds"][0]["models"].pop("base")),
    "no graft": (r"models: holds no 'graft \(learned\)'", lambda r: r["seeds"][1]["models"].pop("graft (learned)")),
    "no accuracy": ("models.tuned: the key 'accuracy'", lambda r: r["seeds"][0]["models"]["tuned"].pop("accuracy")),
    "accuracy nan": (
        "tuned.accuracy: must be a finite number, not nan",
        lambda r: r["seeds"][0]["models"]["tuned"].update(accuracy=float("nan")),
    ),
    "an endless number": (
        "tuned.nll: must be a finite number, not 1000",
        lambda r: r["seeds"][0]["models"]["tuned"].update(nll=10**400),
    ),
    "an ece of true": (
        "tuned.ece: must be a finite number, not True",
        lambda r: r["seeds"][0]["models"]["tuned"].update(ece=True),
    ),
    "half an interval": (
        "tuned.ci: must be pairs of numbers",
        lambda r: r["seeds"][0]["models"]["tuned"]["ci"].update(ece=[0.1]),
    ),
    "no low end": (
        "differences.tuned.test.ece: the key 'low' is missing",
        lambda r: r["seeds"][0]["differences"]["tuned"]["test"]["ece"].pop("low"),
    ),
    "too few bins": (
        "bins.tuned: must be reliability bins",
        lambda r: r["seeds"][0]["bins"]["tuned"]["count"].pop(),
    ),
    "bins without examples": (
        "bins.tuned: must be reliability bins",
        lambda r: r["seeds"][0]["bins"]["tuned"].update(count=[0] * 15),
    ),
    "a bin without a mean": (
        "bins.tuned: must be reliability bins",
        lambda r: r["seeds"][0]["bins"]["tuned"].update(accuracy=[None] * 15),
    ),
    "a density of 0": (
        "curve.0.density: must be a share above 0, not 0",
        lambda r: r["seeds"][0]["curve"][0].update(density=0),
    ),
    "a control without value": (
        "controls.interpolation: the key 'value'",
        lambda r: r["seeds"][0]["controls"]["interpolation"].pop("value"),
    ),
    "a diagnosis in numbers": (
        "diagnosis.text.0: must be a text, not 3",
        lambda r: r["seeds"][0]["diagnosis"].update(text=[3]),
    ),
}


@pytest.mark.parametrize(("said", "change"), BROKEN.values(), ids=BROKEN)
def test_broken_results_are_refused_by_file_and_fact(said: str, change: Change, whole: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "run").mkdir()
    results = read_results(whole)
    write_results(folder, results)
    assert read_run(folder).seeds  # as it was, it can be read
    change(results)
    write_results(folder, results)
    with pytest.raises(DataError) as refused:
        read_run(folder)
    assert re.search(said, line := str(refused.value)), line
    assert line.startswith(f"{folder / 'results.json'}: ")
    assert "\n" not in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b'{"recipe":', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"[]", "must be a mapping, not \\[\\]"),
    ],
)
def test_a_file_of_something_else_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(DataError, match=f"results.json: {said}"):
        read_run(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: no such folder"):
        read_run(tmp_path / "gone")
    with pytest.raises(DataError, match=r"holds no results.json; `graft run` writes it when a run is finished"):
        read_run(tmp_path)
