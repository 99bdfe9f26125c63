"""The model that lm-evaluation-harness knows as "graft" gives what the merged model gives."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from graft.errors import PatchMismatchError
from graft.evaluate.evaluation import evaluate_task
from graft.localize.diff import diff_checkpoints
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.registry import load_target
from graft.tasks.task import Task
from tests.models import FILMS, MEALS, write_causal, write_rows, write_yaml

pytestmark = pytest.mark.filterwarnings("ignore")  # the harness and what it draws in warn of much
NEEDED = "lm-evaluation-harness is not installed (skillgraft[harness])"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harness")
    base, tuned = write_causal(folder / "base"), write_causal(folder / "tuned", seed=1, steps=20)
    for file in (base / "tokenizer.json", tuned / "tokenizer.json"):  # its closing [SEP] the harness takes for answer
        file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    save_patch(diff_checkpoints(base, tuned), folder / "skill")
    rows = [
        {
            "text": f"the {film} was {word}",
            "choices": [f"the {film} was good", f"bad {meal}", "the"],
            "label": number % 3,
        }
        for number, (film, meal, word) in enumerate(zip(FILMS, MEALS, MEALS[::-1], strict=True))
    ]
    write_rows(folder / "test.jsonl", rows)
    return folder


def toy_task(folder: Path) -> dict[str, Any]:
    return {
        "task": "toy",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "test.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes")],
    }


def measure(model: str, folder: Path, **arguments: Any) -> dict[str, Any]:
    harness = pytest.importorskip("lm_eval", reason=NEEDED)
    import graft.interop.harness  # noqa: F401 - registers the model

    how = {"device": "cpu", "batch_size": 2, **arguments}
    found = harness.simple_evaluate(
        model=model, model_args=how, tasks=[toy_task(folder)], bootstrap_iters=0, log_samples=True
    )
    likelihoods = [[choice[0] for choice in row["filtered_resps"]] for row in found["samples"]["toy"]]
    return {"likelihoods": likelihoods, **found["results"]["toy"]}


def test_a_graft_is_measured_as_the_tuned_model_is(models: Path) -> None:
    grafted = measure("graft", models, pretrained=str(models / "base"), patch=str(models / "skill"))
    assert grafted["likelihoods"] == measure("hf", models, pretrained=str(models / "tuned"))["likelihoods"]
    base = measure("graft", models, pretrained=str(models / "base"))["likelihoods"]
    assert base == measure("hf", models, pretrained=str(models / "base"))["likelihoods"] != grafted["likelihoods"]


def test_it_agrees_with_our_own_head(models: Path) -> None:
    theirs = measure("graft", models, pretrained=str(models / "base"), patch=str(models / "skill"))
    for normalize, metric in (("none", "acc,none"), ("bytes", "acc_bytes,none")):
        head = {"kind": "choice", "template": "{text} {choice}", "normalize": normalize}
        data = dict.fromkeys(("train", "validation", "test"), "test.jsonl")
        content = {"name": "toy", "data": data, "choices": "choices", "head": head}
        task = Task.load(write_yaml(models / f"{normalize}.yaml", content))
        ours = evaluate_task(models / "base", task, patches=(load_patch(models / "skill"),))
        assert ours["accuracy"] == theirs[metric]


def test_several_patches_are_separated_as_in_path(models: Path) -> None:
    pytest.importorskip("lm_eval", reason=NEEDED)
    from graft.interop.harness import GraftedLM, split_patches

    assert split_patches("a:b") == split_patches(["a", "b"]) == ["a", "b"]
    assert split_patches(Path("a")) == [Path("a")]
    assert split_patches(()) == split_patches("") == []
    twice = f"{models / 'skill'}:{models / 'skill'}"  # which agree with each other
    assert GraftedLM(str(models / "base"), patch=twice, device="cpu").grafted is not None
    with pytest.raises(PatchMismatchError):
        GraftedLM(str(models / "tuned"), patch=str(models / "skill"), device="cpu")


def test_the_command_line_names_it(models: Path) -> None:
    pytest.importorskip("lm_eval", reason=NEEDED)
    (models / "tasks").mkdir(exist_ok=True)
    (models / "tasks" / "toy.yaml").write_text(yaml.safe_dump(toy_task(models)))
    arguments = f"pretrained={models / 'base'},patch={models / 'skill'}"
    command = [sys.executable, "-m", "graft.interop.harness", "run", "--model", "graft", "--model_args", arguments]
    command += ["--tasks", "toy", "--include_path", str(models / "tasks"), "--device", "cpu"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "acc_bytes" in finished.stdout
    arguments = f"pretrained={models / 'tuned'},patch={models / 'skill'}"
    command[command.index("--model_args") + 1] = arguments
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("Error: ")


def test_plugins_find_it() -> None:
    file = Path(__file__).parents[2] / "pyproject.toml"
    if not file.is_file():
        pytest.skip("the tests run from an installed package")
    points = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["entry-points"]["lm_eval.models"]
    assert list(points) == ["graft"]
    module, _, name = points["graft"].partition(":")
    assert f"class {name}(" in (file.parent / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    pytest.importorskip("lm_eval", reason=NEEDED)
    assert load_target(points["graft"]).__name__ == "GraftedLM"
