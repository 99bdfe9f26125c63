from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from graft_cli.fitting import describe_fit

from graft.patch.format.reading import load_patch
from graft.refit import fitting
from tests.checkpoints import sample_patch
from tests.cli.conftest import Cli
from tests.models import toy_rows, write_rows

QUICK = ["--budget", 40, "--epochs", 1, "--set", "texts=48"]


def write_texts(folder: Path, n: int = 40) -> Path:
    return write_rows(folder / "texts.jsonl", [{"text": row["text"]} for row in toy_rows(n, 21)])


def test_a_refit_says_what_validation_measured_and_inspect_tells_it_from_a_cut(
    base: Path, tuned: Path, task_file: Path, skill: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "refit.safetensors"
    shown = cli("refit", base, tuned, "--task", task_file, *QUICK, "-o", out)
    assert shown.code == 0, shown.err
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["epoch", "values", "loss", "KL", "NLL", "accuracy"] in lines
    kinds = [line[1] for line in lines if line[:1] in (["0"], ["1"])]
    assert kinds == ["start", "last", "mean"]
    assert sum(line[-2:] == ["<-", "kept"] for line in lines) == 1
    assert "(on validation, nats; fitted to TUNED's outputs on 48 texts)" in shown.out
    assert "of the gain on validation (base " in shown.out
    text = cli("inspect", out).out
    (values,) = (line for line in text.splitlines() if line.startswith("values"))
    content = json.loads(cli("inspect", out, "--json").out)
    record = content["refit"]
    assert content["values"] == "refit"
    assert values.split(maxsplit=1)[1] == (
        f"refit: 48 texts, of sha256 {record['texts']['sha256'][:16]}…, teacher {record['teacher'][:16]}…, "
        f"kept epoch 1 ({record['kept']['kind']})"
    )
    cut = json.loads(cli("inspect", skill, "--json").out)
    assert (cut["values"], "refit" in cut) == ("tuned", False)
    assert ["values", "tuned"] in [line.split() for line in cli("inspect", skill).out.splitlines()]


@pytest.mark.parametrize(
    ("select", "start"), [("nll", {"kl": 0.1, "nll": 0.6}), ("nll", {"kl": 0.2}), ("kl", {"kl": 0.2})]
)
def test_values_that_are_no_better_than_the_bases_are_told(select: str, start: dict[str, float]) -> None:
    worse = {measure: value + 0.01 for measure, value in start.items()}
    better = {measure: value - 0.01 for measure, value in start.items()}
    for kept, is_told in ((worse, True), (start, True), (better, False)):
        candidates = [
            {"epoch": epoch, "kind": "last", "measured": dict(measured)} for epoch, measured in enumerate((start, kept))
        ]
        record = {"kept": candidates[1], "candidates": candidates, "tuned": None, "texts": {"n": 3}}
        patch = sample_patch()
        origin = dataclasses.replace(patch.provenance, values="refit", refit=record, method={"select": select})
        lines = describe_fit(dataclasses.replace(patch, provenance=origin))
        assert any("no values were better than BASE's own" in line for line in lines) == is_told


def test_json_is_one_object_and_the_seed_is_the_tasks(
    base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli
) -> None:
    asked = ["refit", base, tuned, "--task", task_file, *QUICK, "--json"]
    content = json.loads(cli(*asked, "-o", tmp_path / "a").out)
    assert (content["k"], content["values"], content["method"]["seed"]) == (40, "refit", 0)
    assert content["method"]["texts"] == 48
    again = cli(*asked, "-o", tmp_path / "a")
    assert again.code == 1
    assert "--force" in again.err


def test_a_patch_gives_the_weights_and_without_task_also_the_head(
    base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli
) -> None:
    cut, out, texts = tmp_path / "cut.safetensors", tmp_path / "out.safetensors", write_texts(tmp_path)
    assert (
        cli("localize", base, tuned, "--task", task_file, "--method", "magnitude", "--budget", 40, "-o", cut).code == 0
    )
    asked = ["refit", base, tuned, cut, "--texts", texts, "--epochs", 1, "--json"]
    made = cli(*asked, "-o", out)
    assert made.code == 0, made.err
    content = json.loads(made.out)
    assert load_patch(out).mask == load_patch(cut).mask
    assert (content["refit"]["texts"]["n"], content["refit"]["texts"]["source"]) == (32, "texts")
    assert (content["method"]["hold_out"], content["method"]["select"]) == (0.2, "kl")
    assert content["refit"]["kept"]["measured"].keys() == {"kl"}
    few = cli(*asked[:5], write_texts(tmp_path, 2), "-o", tmp_path / "few")
    assert few.code == 1
    assert "2 texts are too few to hold out a share of 0.2" in few.err


def test_a_patch_that_names_no_task_needs_one(base: Path, tuned: Path, skill: Path, tmp_path: Path, cli: Cli) -> None:
    refused = cli("refit", base, tuned, skill, "--texts", write_texts(tmp_path), "-o", tmp_path / "out")
    assert refused.code == 1
    assert "the patch names no task with its head: give --task" in refused.err


def test_the_plan_runs_nothing(base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    asked = ["refit", base, tuned, "--task", task_file, "--budget", 40, "--plan"]
    shown = cli(*asked)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines()[-1].endswith("it fits")
    by_gradient, by_size, rounds = (
        {part["what"]: part["bytes"] for part in json.loads(cli(*asked, *more, "--json").out)["parts"]}
        for more in ([], ["--support", "attribution"], ["--set", "rounds=2"])
    )
    assert by_gradient["a gradient per weight in scope"] == rounds["a gradient per weight in scope"] > 0
    assert any(what.startswith("candidates") for what in by_size)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "code", "line"),
    [
        ([], 2, "Missing option '-o'"),
        (["PATCH", "-o", "OUT", "--budget", "3"], 2, "PATCH says which weights"),
        (["-o", "OUT", "--labels", "1.5"], 2, "--labels"),
        (["-o", "OUT", "--set", "drop=2"], 1, "drop must be from 0 to 1"),
        (["-o", "OUT", "--set", "seed=-1"], 1, "seed must be a whole number"),
        (["-o", "OUT", "--set", "rate=2"], 1, "rate"),
        (["-o", "OUT", "--support", "paper"], 1, "chooses its own number of entries"),
        (["-o", "OUT", "--labels", "0.5", "--texts", "TEXTS"], 1, "the texts have no labels"),
        (["-o", "OUT", "--budget", "9999999"], 1, "only "),
        (["-o", "OUT", "--texts", "nowhere.jsonl"], 1, "nowhere.jsonl"),
    ],
)
def test_wrong_usage_is_one_line(
    more: list[str],
    code: int,
    line: str,
    base: Path,
    tuned: Path,
    task_file: Path,
    skill: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    named = {"PATCH": str(skill), "OUT": str(tmp_path / "out"), "TEXTS": str(write_texts(tmp_path))}
    refused = cli("refit", base, tuned, *[named.get(word, word) for word in more], "--task", task_file)
    assert refused.code == code
    assert line in refused.err
    assert not (tmp_path / "out").exists()


def test_without_patch_or_task_there_is_no_head(base: Path, tuned: Path, tmp_path: Path, cli: Cli) -> None:
    refused = cli("refit", base, tuned, "--texts", write_texts(tmp_path), "-o", tmp_path / "out")
    assert refused.code == 2
    assert "give --task, or a PATCH that names its task and --texts" in refused.err


def test_an_interrupt_leaves_nothing(
    base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting.Fitting, "run_epoch", interrupt)
    stopped = cli("refit", base, tuned, "--task", task_file, *QUICK, "-o", tmp_path / "out" / "refit.safetensors")
    assert stopped.code != 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
