"""Whatever is wrong with an input: one line on stderr, exit code 1, nothing written."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.files.tensor_spec import TensorSpec
from graft.patch.format.reading import load_mask
from graft.patch.format.writing import save_patch
from graft.patch.mask import Mask
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import files_below, write_single
from tests.cli.conftest import Cli, Finished
from tests.models import copy_with, write_llama, write_rows, write_task, write_yaml

SIZES = '{"model_type": "bert", "architectures": ["BertModel"], "hidden_size": "wide"}'
Case = Callable[[Path], list[object]]


@pytest.fixture(scope="module")
def bad(shelf: Path, skill: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that can be wrong, beside links to what is right; read-only for the tests."""
    folder = tmp_path_factory.mktemp("bad")
    for name in ("base", "tuned", "toy"):
        (folder / name).symlink_to(shelf / name)
    (folder / "skill").symlink_to(skill)
    shutil.copytree(shelf / "base", folder / "cut")
    whole = (folder / "cut" / "model.safetensors").read_bytes()
    (folder / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    for name, file, junk in (("words", "tokenizer.json", '{"model": 1}'), ("sizes", "config.json", SIZES)):
        shutil.copytree(shelf / "base", folder / name)
        (folder / name / file).write_text(junk)
    write_llama(folder / "llama")
    write_single(folder / "bare", {"layers.0.w": torch.zeros(3)})
    copy_with(shelf / "base", folder / "nan", lambda _, w: w.view(-1)[:1].fill_(float("nan")))
    copy_with(shelf / "base", folder / "moved", lambda _, w: w.add_(1))
    base = Checkpoint.open(shelf / "base")
    save_patch(Mask.full({name: base.spec(name) for name in base.parameters}), folder / "all")
    save_patch(Mask.of({"layers.0.w": TensorSpec("F32", (3,))}, {"layers.0.w": [1]}), folder / "elsewhere")
    (folder / "empty").mkdir()
    (folder / "junk").write_bytes(os.urandom(1000))
    (folder / "half").write_bytes(skill.read_bytes()[:2000])
    save_patch(load_mask(skill), folder / "mask")
    write_task(folder / "key", lables=["a", "b"])
    write_task(folder / "list", labels=["sad", "glad", "sad"])
    write_rows(write_task(folder / "outside").parent / "train.jsonl", [{"text": "x", "label": 5}])
    write_rows(write_task(folder / "nothing").parent / "test.jsonl", [])
    (write_task(folder / "lines").parent / "train.jsonl").write_text('{"text": "x", "label": 0}\nnot json\n')
    (folder / "recipe.yaml").write_text("name: [unclosed")
    rated = {"kind": "single", "name": "r", "base": "x", "task": "toy/task.yaml", "train": {"rate": 1}}
    write_yaml(folder / "rate.yaml", rated)
    return folder


def task(b: Path, name: str = "toy") -> list[object]:
    return ["--task", b / name / "task.yaml"]


CASES: dict[str, tuple[str, Case]] = {
    "a missing model": (r"/nowhere: no such file or folder", lambda b: ["evaluate", "/nowhere", *task(b)]),
    "a missing base": (r"./gone: no such file or folder", lambda b: ["diff", "./gone", b / "tuned"]),
    "a missing patch": (r"gone: no such file or folder", lambda b: ["apply", b / "base", b / "gone"]),
    "a folder without a model": (
        r"empty: holds neither model",
        lambda b: ["diff", b / "empty", b / "base"],
    ),
    "a folder without a config": (r"bare: transformers cannot load it", lambda b: ["evaluate", b / "bare", *task(b)]),
    "a junk tokenizer": (r"words: transformers cannot load it", lambda b: ["evaluate", b / "words", *task(b)]),
    "a junk config": (r"sizes: transformers cannot load it", lambda b: ["evaluate", b / "sizes", *task(b)]),
    "a truncated base": (r"cut short", lambda b: ["diff", b / "cut", b / "tuned"]),
    "a truncated model to merge": (r"cut short", lambda b: ["apply", b / "cut", b / "skill"]),
    "a truncated model to run": (r"cut short", lambda b: ["evaluate", b / "cut", *task(b)]),
    "a truncated model to train": (r"cut short", lambda b: ["train", b / "cut", *task(b)]),
    "a junk patch": (r"junk: not a safetensors file", lambda b: ["inspect", b / "junk"]),
    "a junk patch to verify": (r"junk: not a safetensors file", lambda b: ["verify", b / "junk", "--base", b / "base"]),
    "a junk patch to apply": (r"junk: not a safetensors file", lambda b: ["apply", b / "base", b / "junk"]),
    "a junk patch to try": (r"junk: not a saf", lambda b: ["evaluate", b / "base", *task(b), "--patch", b / "junk"]),
    "half a patch": (r"half: (not a safetensors file, or )?cut short", lambda b: ["inspect", b / "half"]),
    "a model as a patch": (r"not a skill patch", lambda b: ["inspect", b / "base" / "model.safetensors"]),
    "a mask as a patch": (r"mask: a mask file holds no values", lambda b: ["apply", b / "base", b / "mask"]),
    "other architectures": (r"llama is of another architecture than base", lambda b: ["diff", b / "base", b / "llama"]),
    "others to localize": (r"another architecture", lambda b: ["localize", b / "base", b / "llama", *task(b)]),
    "a wrong base to merge": (
        r"does not fit tuned: .*not the base's",
        lambda b: ["apply", b / "tuned", b / "skill"],
    ),
    "a wrong base to run": (r"does not fit", lambda b: ["evaluate", b / "tuned", *task(b), "--patch", b / "skill"]),
    "another model to verify": (r"empty: holds neither", lambda b: ["verify", b / "skill", "--base", b / "empty"]),
    "an unknown key": (
        r"unknown key 'lables' \(did you mean",
        lambda b: ["train", b / "base", *task(b, "key")],
    ),
    "a label twice": (r"two or more different names", lambda b: ["evaluate", b / "base", *task(b, "list")]),
    "a missing task": (r"task.yaml: cannot be read", lambda b: ["evaluate", b / "base", *task(b, "gone")]),
    "a label outside": (
        r"train.jsonl, row 1: label 5 is out",
        lambda b: ["train", b / "base", *task(b, "outside")],
    ),
    "an empty split": (r"test.jsonl: the split is empty", lambda b: ["evaluate", b / "base", *task(b, "nothing")]),
    "a line of no JSON": (r"train.jsonl, line 2: not valid", lambda b: ["train", b / "base", *task(b, "lines")]),
    "a density of 0": (r"density 0 is not above 0", lambda b: ["diff", b / "base", b / "tuned", "--density", 0]),
    "a density of 2": (r"density 2 is not", lambda b: ["localize", b / "base", b / "tuned", *task(b), "--density", 2]),
    "no budget": (r"keeps no entry", lambda b: ["localize", b / "base", b / "tuned", *task(b), "--budget", 0]),
    "too large a budget": (r"only .* in scope changed", lambda b: ["diff", b / "base", b / "tuned", "--budget", 10**9]),
    "equal checkpoints": (r"checkpoints are equal", lambda b: ["diff", b / "base", b / "base"]),
    "equal in scope": (r"are equal in scope", lambda b: ["localize", b / "tuned", b / "tuned", *task(b)]),
    "a scope of nothing": (r"scope 'x9' holds no", lambda b: ["diff", b / "base", b / "tuned", "--scope", "x9"]),
    "a scope of no meaning": (r"not a regular expression", lambda b: ["diff", b / "base", b / "tuned", "--scope", "("]),
    "a train scope of none": (r"not a regular exp", lambda b: ["train", b / "base", *task(b), "--scope", "("]),
    "a rate of nan": (r"lr: must be a number", lambda b: ["train", b / "base", *task(b), "--lr", "nan"]),
    "NaN to compare": (r"nan: tensor '.*' holds NaN or infinite", lambda b: ["diff", b / "base", b / "nan"]),
    "NaN to localize": (r"holds NaN or infinite", lambda b: ["localize", b / "base", b / "nan", *task(b)]),
    "NaN to train": (r"the loss is nan", lambda b: ["train", b / "nan", *task(b)]),
    "NaN to evaluate": (r"test: the model's outputs are not finite", lambda b: ["evaluate", b / "nan", *task(b)]),
    "a core of another model": (
        r"does not fit (BertModel|base): tensor 'layers.0.w': the model has no such tensor",
        lambda b: ["train", b / "base", *task(b), "--protect", b / "elsewhere"],
    ),
    "a core of another base": (
        r"neither in BertModel nor absent from it: tensor '.*': the values at its .* entries are not all the patch's",
        lambda b: ["train", b / "moved", *task(b), "--protect", b / "skill"],
    ),
    "nothing left to train": (
        r"nothing is left to train",
        lambda b: ["train", b / "base", *task(b), "--protect", b / "all"],
    ),
    "no such device": (r"device 'abacus'", lambda b: ["evaluate", b / "base", *task(b), "--device", "abacus"]),
    "no such dtype": (r"dtype 'int4': choose from", lambda b: ["evaluate", b / "base", *task(b), "--dtype", "int4"]),
    "a recipe of no YAML": (r"recipe.yaml: not valid YAML", lambda b: ["run", b / "recipe.yaml"]),
    "a missing recipe": (r"gone.yaml: cannot be read", lambda b: ["run", b / "gone.yaml"]),
    "a recipe's bad key": (r"train: unknown key 'rate'", lambda b: ["run", b / "rate.yaml"]),
    "a bad assignment": (r"--set seeds: write it as key=value", lambda b: ["run", b / "rate.yaml", "--set", "seeds"]),
}
READERS = ("evaluate", "inspect", "verify")


def refused(finished: Finished) -> str:
    """The one line that was said."""
    assert (finished.code, finished.out) == (1, "")
    assert finished.err.startswith("error: ")
    assert finished.err.endswith("\n")
    assert finished.err.count("\n") == 1, finished.err
    assert "a bug" not in finished.err
    assert len(finished.err) < 600
    return finished.err


@pytest.mark.parametrize(("said", "case"), CASES.values(), ids=CASES)
def test_one_line_and_nothing_written(said: str, case: Case, bad: Path, tmp_path: Path, cli: Cli) -> None:
    arguments = case(bad)
    before = files_below(bad)
    for extra in ([], ["--json"]):
        line = refused(cli(*arguments, *([] if arguments[0] in READERS else ["-o", tmp_path / "out"]), *extra))
        assert re.search(said, line), line
    assert list(tmp_path.iterdir()) == []
    assert files_below(bad) == before


@pytest.mark.parametrize(
    "case",
    [
        lambda b: ["diff", b / "base", b / "tuned"],
        lambda b: ["localize", b / "base", b / "tuned", *task(b), "--method", "random", "--density", 0.01],
        lambda b: ["apply", b / "base", b / "skill"],
        lambda b: ["train", b / "base", *task(b), "--epochs", 1],
    ],
    ids=["diff", "localize", "apply", "train"],
)
def test_what_exists_is_overwritten_by_force_alone(case: Case, bad: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    assert cli(*case(bad), "-o", out).code == 0
    first = files_below(tmp_path)
    out = out if out.is_file() else out / "config.json"
    out.write_text("mine")
    assert "out exists already: choose another name or pass --force" in refused(cli(*case(bad), "-o", tmp_path / "out"))
    assert out.read_text() == "mine"
    assert cli(*case(bad), "-o", tmp_path / "out", "--force").code == 0
    assert out.read_bytes() != b"mine"
    assert files_below(tmp_path) == first
    (tmp_path / "file").write_text("mine")
    line = refused(cli(*case(bad), "-o", tmp_path / "file" / "below" / "out"))
    assert "file is not a folder" in line


@pytest.mark.parametrize(
    ("place", "case"),
    [
        ("pathlib.Path.write_bytes", lambda b: ["diff", b / "base", b / "tuned"]),
        ("shutil.copyfile", lambda b: ["apply", b / "base", b / "skill"]),
        ("transformers.PreTrainedModel.save_pretrained", lambda b: ["train", b / "base", *task(b), "--epochs", 1]),
        ("torch.save", lambda b: ["train", b / "base", *task(b), "--epochs", 2]),
    ],
)
def test_a_full_disk_leaves_nothing(
    place: str, case: Case, bad: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(place, full)
    line = refused(cli(*case(bad), "-o", tmp_path / "new" / "out"))
    assert "cannot be written (No space left on device)" in line
    assert files_below(tmp_path) == []


def test_a_name_of_the_hub_says_that_both_were_tried(cli: Cli, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("no connection,\nno copy")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    line = refused(cli("evaluate", "org/model", *task(bad)))
    assert "org/model: no such local path, and the Hub gave none either (no connection,)" in line
