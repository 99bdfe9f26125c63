"""--plan, and the options that change what localizing holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from graft.memory import plan as memory_plan
from graft.memory.localize import plan_localization
from graft.patch.format.reading import load_patch
from graft.specs.localize import LocalizeSpec
from graft.tasks.task import Task
from tests.cli.conftest import Cli
from tests.models import write_llama


def test_localize_says_what_it_will_take_and_does_nothing(
    base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli
) -> None:
    asked = ["localize", base, tuned, "--task", task_file, "--density", "0.01", "--plan"]
    shown = cli(*asked)
    assert (shown.code, shown.err) == (0, "")
    assert [line.split("  ")[0] for line in shown.out.splitlines()[:3]] == [
        "weights",
        "largest gradient",
        "activations, longest inputs",
    ]
    assert shown.out.splitlines()[-1].endswith("in host memory: it fits")
    plain, exact = (
        json.loads(cli(*asked, *more, "--json", "-o", tmp_path / "p").out) for more in ([], ["--exact-scores"])
    )
    assert (
        plain["parts"] == plan_localization(base, Task.load(task_file), LocalizeSpec(density=0.01)).to_json()["parts"]
    )
    assert "a number per weight in scope" in {part["what"] for part in exact["parts"]}
    assert plain["fits"] is True
    assert not list(tmp_path.iterdir())


def test_train_says_what_it_will_take(base: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    asked = ["train", base, "--task", task_file, "--plan", "--json"]
    totals = [json.loads(cli(*asked, "--optimizer", name).out)["total"]["host"] for name in ("sgd", "adamw")]
    assert totals[0] < totals[1]
    assert cli("train", base, "--task", task_file).code == 2  # without --plan it needs -o


def test_train_says_what_each_precision_will_take(base: Path, task_file: Path, cli: Cli) -> None:
    asked = ["train", base, "--task", task_file, "--plan", "--optimizer", "adamw"]
    narrow = json.loads(cli(*asked, "--dtype", "bfloat16", "--precision", "full", "--json").out)
    assert narrow["precision"] == "full"
    assert narrow["precisions"]["full"] == narrow["total"]
    assert narrow["precisions"]["pure"]["host"] < narrow["total"]["host"]
    lines = cli(*asked, "--dtype", "bfloat16").out.splitlines()[-3:]
    assert [line.split(":")[0] for line in lines] == ["precision mixed", "precision pure", "precision full"]
    assert "precisions" not in json.loads(cli(*asked, "--json").out)  # of a base in fp32 they are the same


def test_diff_says_what_it_will_take_and_does_nothing(base: Path, tuned: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "skill.safetensors"
    asked = ["diff", base, tuned, "--budget", 300, "-o", out]
    shown = cli(*asked, "--plan")
    assert (shown.code, shown.err) == (0, "")
    assert re.search(r"^the largest 300 deltas +12.9 KiB  host memory$", shown.out, re.MULTILINE)
    assert re.search(r"^to read +\S+ KiB  files$", shown.out, re.MULTILINE)
    assert shown.out.splitlines()[-1].endswith(" on disk: it fits")
    plans = {name: json.loads(cli(*asked[:3], *more, "--plan", "--json").out) for name, more in {
        "budget": asked[3:], "base values": [*asked[3:], "--with-base-values"], "all": ["-o", out], "diagnosis": [],
    }.items()}  # fmt: skip
    assert not list(tmp_path.iterdir())
    disk = {name: plan["total"].get("disk", 0) for name, plan in plans.items()}
    assert disk["diagnosis"] == 0 < disk["budget"] < disk["base values"] < disk["all"]
    weights = sum(base.stat().st_size for base in (base / "model.safetensors", tuned / "model.safetensors"))
    assert 0.9 * weights < plans["budget"]["reads"] < weights
    assert cli(*asked).code == 0
    assert disk["budget"] / 20 < out.stat().st_size < disk["budget"]
    assert cli(*asked, "--plan").err.startswith(f"error: {out} exists already")
    assert cli("diff", base, tuned, "--budget", 10**6, "-o", tmp_path / "more", "--plan").code == 1


def test_apply_says_what_it_will_take_and_does_nothing(base: Path, tuned: Path, tmp_path: Path, cli: Cli) -> None:
    skill, out = tmp_path / "skill.safetensors", tmp_path / "merged"
    assert cli("diff", base, tuned, "-o", skill).code == 0
    plan = json.loads(cli("apply", base, skill, "-o", out, "--plan", "--json").out)
    assert {path.name for path in tmp_path.iterdir()} == {skill.name}
    parts = {part["what"]: part["bytes"] for part in plan["parts"]}
    assert parts["patches"] == skill.stat().st_size
    assert parts[f"their {len(load_patch(skill)):,} entries"] == 16 * len(load_patch(skill))
    assert cli("apply", base, skill, "-o", out).code == 0
    assert plan["total"]["disk"] == sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert plan["reads"] == plan["total"]["disk"] + skill.stat().st_size
    refused = cli("apply", write_llama(tmp_path / "other"), skill, "-o", tmp_path / "m", "--plan")
    assert (refused.code, refused.out) == (1, "")
    assert "the model has no such tensor" in refused.err


def test_serve_says_what_it_will_load_and_offer(
    base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    skill, other = tmp_path / "skill.safetensors", write_llama(tmp_path / "other")
    assert (
        cli("localize", base, tuned, "--task", task_file, "--budget", 40, "--method", "magnitude", "-o", skill).code
        == 0
    )
    monkeypatch.setattr("graft.tasks.head.open_head", None)  # no model is loaded
    asked = ["serve", base, "--skill", f"moods={skill}", "--plan"]
    plan = json.loads(cli(*asked, "--batch-rows", 8, "--json").out)
    assert (plan["base"], plan["dtype"], plan["fits"], plan["limits"]["batch_rows"]) == ("base", "float32", True, 8)
    (found,) = plan["skills"]
    assert (found["name"], found["k"], found["bytes"]) == ("moods", 40, skill.stat().st_size)
    assert (found["head"], found["labels"], found["max_length"]) == ("similarity", ["sad", "glad"], 128)
    assert "POST /classify" in plan["routes"]
    assert not {"POST /v1/completions", "POST /skills"}.intersection(plan["routes"])
    shown = cli(*asked)
    assert (shown.code, shown.err) == (0, "")
    assert re.search(
        r"^skill moods  40 entries, [0-9,]+ bytes; head similarity, 2 labels, texts of 128", shown.out, re.M
    )
    assert shown.out.splitlines()[-1].endswith("in host memory: it fits")
    monkeypatch.setenv("SECRET", "a token of sixteen characters")
    writing = json.loads(cli("serve", other, "--token-env", "SECRET", "--plan", "--json").out)
    assert {"POST /v1/completions", "POST /skills"} < set(writing["routes"])
    assert "keys and values of texts being written" in {part["what"] for part in writing["parts"]}
    refused = cli("serve", other, "--skill", f"moods={skill}", "--plan")
    assert (refused.code, refused.out) == (1, "")
    assert "the model has no such tensor" in refused.err


def test_a_plan_that_does_not_fit_the_disk_says_so(
    base: Path, tuned: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["diff", base, tuned, "-o", tmp_path / "skill.safetensors", "--plan"]
    assert cli(*asked).out.endswith(": it fits\n")
    monkeypatch.setattr(memory_plan, "free_disk", lambda out: 1000)
    assert cli(*asked).out.endswith("0.977 KiB on disk: it does not fit\n")


@pytest.mark.parametrize("more", [["--exact-scores"], ["--gradient-checkpointing"]])
def test_how_it_is_computed_is_an_option(
    more: list[str], base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "skill.safetensors"
    asked = ["localize", base, tuned, "--task", task_file, "--budget", 50, "--points", 1, "-o", out]
    assert cli(*asked, *more).code == 0
    patch = load_patch(out)
    assert len(patch) == 50
    assert patch.provenance.method["exact_scores"] is ("--exact-scores" in more)
