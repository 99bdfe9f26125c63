from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from graft_cli.entry import COMMANDS, group
from safetensors.torch import load_file

from graft import __version__
from graft.evaluate.curve import CurvePoint, GainCurve
from graft.evaluate.report import Report
from graft.files.training_manifest import read_manifest
from graft.files.workplaces import make_workplace
from graft.localize.diagnosis import diagnose_movement
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.mask import Mask
from graft.recipes.run import RunResult
from tests.checkpoints import equal_tensors, make_patch, write_single
from tests.cli.conftest import Cli, Finished
from tests.models import write_yaml


def parsed(finished: Finished) -> dict[str, Any]:
    """The one JSON object that a command printed, and nothing beside it."""
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.startswith("{")
    assert finished.out.endswith("}\n")
    result: dict[str, Any] = json.loads(finished.out)
    return result


def test_help_and_version(cli: Cli) -> None:
    for ask in (["--help"], ["-h"]):
        finished = cli(*ask)
        assert (finished.code, finished.err) == (0, "")
        assert all(f"  {name} " in finished.out and about in finished.out for name, about in COMMANDS.items())
    assert cli("--version").out == f"graft, version {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_its_options(name: str, cli: Cli) -> None:
    finished = cli(name, "--help")
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.startswith(f"Usage: graft {name} [OPTIONS]")
    for option in ("--json", "--debug", "--help"):
        assert option in finished.out
    command = group.get_command(click.Context(group), name)
    assert command is not None
    options = {param.name: param.help for param in command.params if isinstance(param, click.Option)}
    assert [option for option, text in options.items() if not text or len(text) > 450] == []  # longer lists go below


def test_diff_apply_verify_and_inspect(base: Path, tuned: Path, tmp_path: Path, cli: Cli) -> None:
    patch, merged = tmp_path / "skill.safetensors", tmp_path / "merged"
    made = parsed(cli("diff", base, tuned, "-o", patch, "--json"))
    assert made.pop("diagnosis") == parsed(cli("diff", base, tuned, "--json"))
    assert made == parsed(cli("inspect", patch, "--json"))
    assert made["k"] == len(load_patch(patch))
    keys = {"k", "n_parameters", "n_maskable", "density", "bytes", "bytes_per_entry", "bound_ratio", "layers", "kind"}
    assert keys < set(made)
    assert made["bytes"] == patch.stat().st_size
    assert sum(made["layers"].values()) == made["k"]
    assert parsed(cli("apply", base, patch, "-o", merged, "--json")) == {"output": str(merged), "k": made["k"]}
    assert equal_tensors(load_file(merged / "model.safetensors"), load_file(tuned / "model.safetensors"))
    assert (merged / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert parsed(cli("verify", patch, "--base", base, "--full", "--json")) == {"fits": True, "reasons": []}


def test_what_is_odd_about_two_checkpoints_is_a_note_and_in_the_json(tmp_path: Path, cli: Cli) -> None:
    before = {"embed.weight": torch.rand(7, 4), "layers.0.w": torch.rand(4, 4)}
    base = write_single(tmp_path / "base", before)
    after = {"embed.weight": torch.rand(9, 4), "layers.0.w": before["layers.0.w"].clone()}
    after["layers.0.w"][0] += 1
    tuned = write_single(tmp_path / "tuned", {name: tensor.bfloat16() for name, tensor in after.items()})
    for more in ((), ("-o", tmp_path / "narrow", "--budget", 4)):
        done = cli("diff", base, tuned, "--scope", "layers", *more, "--json")
        found = json.loads(done.out)
        assert (found["left_out"], found["rounded"]) == (["embed.weight"], 12)
        assert done.err.splitlines() == [f"note: {note}" for note in found["notes"]]
        assert "12 entries differ by rounding alone and are taken as not moved" in done.err
    done = cli("diff", base, tuned, "-o", tmp_path / "wide")
    assert "note: the vocabulary grew from 7 to 9 rows" in done.err
    assert "vocabulary     7 to 9 rows, tokens unknown" in cli("inspect", tmp_path / "wide").out
    applied = cli("apply", base, tmp_path / "wide", "-o", tmp_path / "out")
    assert (applied.code, applied.err.count("note: ")) == (0, 1)
    assert "copy the tuned model's tokenizer files" in applied.err


def test_diff_without_an_output_is_a_diagnosis(base: Path, tuned: Path, tmp_path: Path, cli: Cli) -> None:
    found = diagnose_movement(base, tuned, scope="layers")
    finished = cli("diff", base, tuned, "--scope", "layers")
    assert (finished.code, finished.err) == (0, "")
    assert tuple(finished.out.splitlines()) == found.sentences
    assert parsed(cli("diff", base, tuned, "--scope", "layers", "--json")) == found.to_json()
    cut = cli("diff", base, tuned, "--scope", "layers", "--budget", 9, "-o", tmp_path / "p")
    assert cut.out.splitlines()[-2:] == [found.sentence, f"wrote {tmp_path / 'p'}"]
    assert cli("diff", base, base).out.endswith("moved: there is nothing to localize.\n")
    assert cli("diff", base, base, "-o", tmp_path / "none").code == 1


def test_verify_says_no_by_its_exit_code(base: Path, tuned: Path, skill: Path, cli: Cli) -> None:
    good = cli("verify", skill, "--base", base)
    assert (good.code, good.out, good.err) == (0, "fits\n", "")
    wrong = cli("verify", skill, "--base", tuned)
    assert (wrong.code, wrong.err) == (1, "")
    assert wrong.out.startswith("does not fit:\n  tensor '")
    as_json = cli("verify", skill, "--base", tuned, "--full", "--json")
    assert as_json.code == 1
    reasons = json.loads(as_json.out)["reasons"]
    assert "are not the base's" in reasons[0]
    assert "digest" in reasons[-1]


def test_full_verification_sees_what_lies_outside_the_mask(tmp_path: Path, cli: Cli) -> None:
    import torch

    weights = {"layers.0.w": torch.zeros(4), "layers.1.w": torch.zeros(4)}
    base = write_single(tmp_path / "base", weights)
    other = write_single(tmp_path / "other", weights | {"layers.1.w": torch.ones(4)})
    tuned = write_single(tmp_path / "tuned", weights | {"layers.0.w": torch.ones(4)})
    assert cli("diff", base, tuned, "-o", tmp_path / "p").code == 0
    assert [cli("verify", tmp_path / "p", "--base", model).code for model in (base, other)] == [0, 0]
    assert [cli("verify", tmp_path / "p", "--base", model, "--full").code for model in (base, other)] == [0, 1]


def test_train_localize_and_evaluate(base: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    out, patch = tmp_path / "tuned", tmp_path / "skill"
    settings = ["--epochs", 3, "--lr", 0.1, "--optimizer", "sgd", "--batch-size", 8, "--scope", "all", "--seed", 1]
    made = parsed(cli("train", base, "--task", task_file, "-o", out, *settings, "--json"))
    assert made["output"] == str(out)
    assert [set(epoch) for epoch in made["epochs"]] == [{"loss", "validation_accuracy"}] * 3
    assert json.loads((out / "graft_training.json").read_text())["seed"] == 1
    where = ["--task", task_file, "--points", 2, "--density", 0.02, "--scope", "layers+embeddings", "--seed", 1]
    found = parsed(cli("localize", base, out, *where, "-o", patch, "--with-base-values", "--json"))
    assert found["k"] == int(0.02 * found["n_parameters"] + 0.5) == len(load_patch(patch))
    assert found["has_base_values"] is True
    assert {key: found["method"][key] for key in ("method", "points", "seed")} == {
        "method": "attribution",
        "points": 2,
        "seed": 1,
    }
    report = parsed(cli("evaluate", base, "--task", task_file, "--patch", patch, "--tuned", out, "--json"))
    assert {"accuracy", "f1", "nll", "brier", "ece", "n", "ci", "ood", "agreement", "recovered_gain"} <= set(report)
    assert set(report["ood"]) == {"meals", "novel"}
    assert {"msp", "energy", "n_in", "n_out"} == set(report["ood"]["novel"]["detection"])
    assert parsed(cli("evaluate", out, "--task", task_file, "--limit", 5, "--json"))["n"] == 5


def test_a_curve_goes_with_a_patch_or_alone(
    base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["localize", base, tuned, "--task", task_file, "--method", "magnitude", "--scope", "all"]
    curves = [cli(*asked, "--curve", *more, "--json") for more in ((), ("--budget", 9, "-o", tmp_path / "p"))]
    for finished in curves:
        said = "note: density 1e-05 is left out of the curve: it keeps no entry\n"
        assert (finished.code, finished.err) == (0, said)
    alone, both = (json.loads(finished.out) for finished in curves)
    assert [point["k"] for point in alone["points"]] == [1, 2, 6, 21, 62, 206]  # the base has 20,576 weights
    assert both.pop("curve") == alone
    assert both.pop("validation")["n"] == alone["n"]
    assert both == parsed(cli("inspect", tmp_path / "p", "--json"))
    assert both["k"] == 9
    curve = GainCurve(
        "magnitude", 96, 0.5, 0.75, (CurvePoint(1e-4, 12_345, 0.7375, 0.95), CurvePoint(1.0, 9, 0.5, None))
    )
    monkeypatch.setattr("graft.evaluate.curve.measure_curve", lambda *_, **__: curve)
    finished = cli(*asked, "--curve")
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.splitlines() == [
        " density            k  accuracy    gain",
        "    base                  0.500",
        "  0.0001       12,345     0.738    0.95",
        "       1            9     0.500",
        "   tuned                  0.750",
        "(on 96 validation examples, by magnitude)",
        curve.sentence,
    ]


def test_run_passes_on_what_it_is_told(shelf: Path, tmp_path: Path, cli: Cli) -> None:
    recipe: dict[str, Any] = {"kind": "single", "name": "one", "base": str(shelf / "base"), "controls": []}
    recipe |= {"task": str(shelf / "toy" / "task.yaml")}
    recipe |= {"localize": {"method": "magnitude"}, "expect": {"tuned.accuracy": {"value": 0, "tolerance": 0.1}}}
    path = write_yaml(tmp_path / "one.yaml", recipe)
    settings = ["--set", "seeds=[3]", "--set", "localize.density=0.02", "--set", "train.epochs=1", "-o", tmp_path / "o"]
    results = parsed(cli("run", path, *settings, "--json"))
    assert results == json.loads((tmp_path / "o" / "results.json").read_text())
    assert (results["recipe"]["seeds"], results["seeds"][0]["k"]) == ([3], int(0.02 * 20_576 + 0.5))
    assert len(results["missed"]) == 1
    assert "o exists already" in cli("run", path, *settings).err


def test_run_shows_a_person_the_table_and_what_was_written(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run(*arguments: Any, **settings: Any) -> RunResult:
        asked.extend([*arguments, settings["force"]])
        return RunResult({}, "| model |", (Path("a/table.md"), Path("a/results.json")), ("tuned.ece is 1",))

    monkeypatch.setattr("graft.recipes.run.run_recipe", run)
    finished = cli("run", "some/recipe.yaml", "--force")
    assert (finished.code, finished.err) == (0, "")
    lines = ["", "| model |", "", "wrote a/table.md", "wrote a/results.json", "not as expected: tuned.ece is 1"]
    assert finished.out.splitlines() == lines
    assert asked == [Path("some/recipe.yaml"), Path("runs/recipe"), True]


def test_inspect_shows_a_person_what_is_in_a_patch(skill: Path, cli: Cli) -> None:
    finished = cli("inspect", skill)
    assert (finished.code, finished.err) == (0, "")
    lines = dict(line.split("  ", 1) for line in finished.out.splitlines())
    assert lines["kind"].strip() == "patch"
    assert lines["base"].strip() == "base"
    assert "300 of 20," in lines["entries"]
    assert "x bound" in lines["coding"]


def test_evaluate_shows_a_person_every_figure(
    base: Path, task_file: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"accuracy": 0.5, "f1": 1.0, "nll": 10.5, "brier": 0.25, "ece": 0.0625, "ece_mass": 0.1, "mce": 0.5}
    inner = Report(1234, metrics, {"nll": (10.25, 20.125), "accuracy": (0.25, 1.0)}, 0.01)
    ends = {"auroc": (0.5, 1.0), "fpr95": (0.0, 0.125)}
    found = {score: {"auroc": 0.75, "fpr95": 0.0625, "ci": ends} for score in ("msp", "energy")}
    detection = {"novel": found | {"n_in": 56, "n_out": 1000}}
    gain: dict[str, Any] = {"recovered_gain": 0.25, "ood": {"far": inner}}
    for more in ({}, {"detection": detection}):
        report = Report(56, metrics, {"nll": (0.0, 0.5)}, 0.01, **gain, **more)
        monkeypatch.setattr("graft.evaluate.comparison.evaluate_against", lambda *_, report=report, **__: report)
        finished = cli("evaluate", base, "--task", task_file)
        assert len(finished.out.splitlines()) == 4 + 3 * len(more)
    head, test, far, title, columns, novel, note = finished.out.splitlines()
    assert title == "novel classes told from the task's:"
    assert columns.split() == ["n", "msp", "auroc", "msp", "fpr95", "energy", "auroc", "energy", "fpr95"]
    assert novel.split() == ["novel", "1,000", *["0.750[.50,1.00]", "0.062[.00,.12]"] * 2]
    assert head.split()[:4] == ["n", "accuracy", "f1", "nll"]
    assert test.split()[:7] == ["test", "56", "0.500", "1.000", "10.500[.00,.50]", "0.250", "0.062"]
    assert test.split()[-2:] == ["0.010", "0.250"]
    assert far.split()[:5] == ["far", "1,234", "0.500[.25,1.00]", "1.000", "10.500[10.25,20.12]"]
    assert "bootstrap interval" in note


def test_overlapping_patches_are_refused_or_stacked_by_rule(tmp_path: Path, cli: Cli) -> None:
    import torch

    from graft.patch.format.writing import save_patch

    weights = {"layers.0.w": torch.zeros(4)}
    base = write_single(tmp_path / "base", weights)
    for name, value in (("a", 1.0), ("b", 2.0)):
        save_patch(make_patch(weights, {"layers.0.w": {0: value}}), tmp_path / name)
    refused = cli("apply", base, tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert refused.code == 1
    assert "choose --on-overlap first or last" in refused.err
    for rule, value in (("first", 1.0), ("last", 2.0)):
        assert cli("apply", base, tmp_path / "a", tmp_path / "b", "-o", tmp_path / rule, "--on-overlap", rule).code == 0
        assert load_file(tmp_path / rule / "model.safetensors")["layers.0.w"][0] == value


def test_a_base_that_moved_is_taken_only_where_the_check_is_waived(
    tuned: Path, skill: Path, tmp_path: Path, cli: Cli
) -> None:
    assert cli("apply", tuned, skill, "-o", tmp_path / "out").code == 1
    assert cli("apply", tuned, skill, "-o", tmp_path / "out", "--allow-mismatch").code == 0


def test_a_state_is_looked_at_only_where_training_should_go_on(
    base: Path, task_file: Path, tmp_path: Path, cli: Cli
) -> None:
    make_workplace(tmp_path / "out")
    (tmp_path / "out.resume" / "state.pt").write_bytes(b"junk")
    command = ["train", base, "--task", task_file, "--epochs", 1, "-o", tmp_path / "out"]
    assert "out.resume: not readable; delete it or leave --resume out to start anew" in cli(*command, "--resume").err
    assert cli(*command).code == 0


def test_localize_learns_with_settings_from_the_command_line(
    base: Path, tuned: Path, task_file: Path, tmp_path: Path, cli: Cli
) -> None:
    patch = tmp_path / "skill.safetensors"
    given = ("localize", base, tuned, "--task", task_file, "--scope", "all", "--budget", 300, "--points", 1)
    made = parsed(cli(*given, "--method", "learned", "--set", "learn.epochs=2", "-o", patch, "--json"))
    assert made["k"] == 300
    method = load_patch(patch).provenance.method
    assert method["learn"]["epochs"] == 2  # type: ignore[index]
    wrong = cli(*given, "--method", "learned", "--set", "learn.epoch=2", "-o", patch, "--force")
    assert wrong.code == 1
    assert "'epoch'" in wrong.err


def test_train_localizable_leaves_a_small_difference(base: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "few"
    given = ("train", base, "--task", task_file, "--scope", "all", "-o", out)
    assert cli(*given, "--density", 0.01).code == 2  # it belongs to --localizable
    short = ("--set", "localizable.proximal_epochs=1", "--set", "localizable.epochs=1")
    made = parsed(cli(*given, "--localizable", "--density", 0.01, *short, "--json"))
    assert len(made["epochs"]) == 1
    diff = parsed(cli("diff", base, out, "-o", tmp_path / "all.safetensors", "--json"))
    assert 0 < diff["k"] <= 0.01 * diff["n_parameters"] + 1
    assert made["changes"]["changed"] == diff["k"] <= made["changes"]["trained"]


def test_train_keeps_the_protected_regions(
    base: Path, tuned: Path, skill: Path, task_file: Path, tmp_path: Path, cli: Cli
) -> None:
    half = load_patch(skill).mask
    name = next(iter(half))
    save_patch(Mask.of({name: half.specs[name]}, {name: half[name]}), tmp_path / "half")
    given = ("--task", task_file, "--epochs", 1, "--protect", skill, "--json")
    frozen = cli("train", tuned, *given, "--method", "core-freeze", "-o", tmp_path / "frozen")
    assert "protected: 300 entries (0.0" in frozen.err
    assert "skill values; " in frozen.err
    held = cli("train", base, *given, "--unprotect", tmp_path / "half", "-o", tmp_path / "held")
    assert f"protected: {300 - len(half[name])} entries" in held.err
    assert "base values; " in held.err
    assert json.loads(held.out)["output"].endswith("held")
    assert read_manifest(tmp_path / "held")["protected"] == held.err.strip()
    assert cli("train", base, "--task", task_file, "--method", "core-freeze", "-o", tmp_path / "x").code == 2
    assert cli("train", base, "--task", task_file, "--unprotect", skill, "-o", tmp_path / "x").code == 2
