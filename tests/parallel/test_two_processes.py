from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.patch.format.reading import load_patch
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from tests.parallel import worker
from tests.parallel.conftest import distance, torchrun


def test_flat_indices_find_their_entries_in_shards(results: Any) -> None:
    assert len(results["shards"]) == 4
    assert all(results["shards"].values()), results["shards"]


def test_a_hook_on_a_sharded_weight_fires_once_the_gradients_are_summed(results: Any) -> None:
    assert results["hooks"] == {"fired": [2], "exact": [True]}


def test_items_are_dealt_in_turn_and_collected_in_their_order(results: Any) -> None:
    assert results["dealt"] == [[["a", True], ["c", True]], [["b", True], ["c", False]]]
    assert results["collected"] == [0.5, 1.5, 2.5]


@pytest.mark.parametrize("name", worker.TRAININGS)
def test_two_processes_train_as_one_does(name: str, folder: Path, out: Path, tmp_path: Path) -> None:
    worker.train(folder, name, tmp_path / "one")
    moved = distance(folder / "base", tmp_path / "one")
    for parallel in ("ddp", "fsdp"):
        assert distance(tmp_path / "one", out / f"{name}-{parallel}") < 1e-3 * moved
        files = {path.name for path in (out / f"{name}-{parallel}").iterdir()}
        assert files == {path.name for path in (tmp_path / "one").iterdir()}
    worker.train(folder, name, tmp_path / "other", parallel="fsdp")  # alone it changes nothing
    assert distance(tmp_path / "one", tmp_path / "other") == 0
    assert not list(out.glob("*.resume"))


@pytest.mark.parametrize("name", worker.ANSWERS)
def test_two_processes_weigh_answer_tokens_as_one_does(
    name: str, folder: Path, out: Path, results: Any, tmp_path: Path
) -> None:
    loss = worker.train_answers(folder, name, tmp_path / "one")
    moved = distance(folder / "chatting", tmp_path / "one")
    for parallel in ("ddp", "fsdp"):
        assert results["answers"][f"{name}-{parallel}"] == pytest.approx(loss, rel=1e-5)
        assert distance(tmp_path / "one", out / f"{name}-{parallel}") < 1e-4 * moved


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_master_weights_as_one_does(
    parallel: str, folder: Path, out: Path, results: Any, tmp_path: Path
) -> None:
    worker.train(folder, "micro", tmp_path / "one", dtype="bfloat16")
    worker.train(folder, "micro", tmp_path / "narrow", dtype="bfloat16", config={"lr": 1e-9})
    worker.train(folder, "micro", tmp_path / "pure", dtype="bfloat16", config={"precision": "pure"})
    moved, made = distance(tmp_path / "narrow", tmp_path / "one"), out / f"mixed-{parallel}"
    assert distance(tmp_path / "one", made) < 0.1 * moved < distance(tmp_path / "one", tmp_path / "pure")
    saved = Checkpoint.open(made)
    assert {saved.spec(name).dtype for name in saved.names} == {"BF16"}
    task = Task.load(folder / "toy" / "task.yaml")
    validated = open_head(made, task.spec).accuracy(task.validation_examples())
    assert results["mixed"][parallel] == pytest.approx(validated)  # measured as it is saved


def test_master_weights_in_shards_read_chats_as_one_process_does(folder: Path, results: Any, tmp_path: Path) -> None:
    loss = worker.train_answers(folder, "chats", tmp_path / "one", dtype="bfloat16")
    assert results["mixed"]["chats"] == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("name", worker.SEARCHES)
def test_the_mask_of_two_processes_is_one_processes(name: str, folder: Path, out: Path) -> None:
    one, two = worker.localize(folder, name), load_patch(out / f"{name}-ddp.safetensors")
    assert one.mask == two.mask
    assert all(torch.equal(one.values[tensor], two.values[tensor]) for tensor in one.mask)


def test_other_micro_batches_can_give_another_mask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = worker.localize(folder, "attribution")
    fewer = dataclasses.replace(worker.SEARCHES["attribution"], batch_size=64)
    fewer = dataclasses.replace(fewer, candidates=dataclasses.replace(fewer.candidates, micro_batches=1, multiple=1))
    monkeypatch.setitem(worker.SEARCHES, "attribution", fewer)
    assert worker.localize(folder, "attribution").mask != one.mask


def test_sharded_weights_give_nearly_the_same_mask(folder: Path, out: Path) -> None:
    one, sharded = worker.localize(folder, "attribution").mask, load_patch(out / "attribution-fsdp.safetensors").mask
    assert len(sharded) == len(one)
    assert len(one & sharded) >= 0.9 * len(one)


@pytest.mark.parametrize("name", worker.REFITS)
def test_two_processes_fit_as_one_does(name: str, folder: Path, out: Path) -> None:
    one = worker.refit(folder, name)
    for parallel in worker.REFITS[name]["engines"]:
        two = load_patch(out / f"refit-{name}-{parallel}.safetensors")
        assert len(two) == len(one) == 60
        shared = one.mask & two.mask
        assert len(shared) >= 57  # the last places of a gradient's top k are close
        measured = [patch.provenance.refit["kept"]["measured"] for patch in (one, two)]
        assert measured[0]["kl"] < 0.9 * one.provenance.refit["candidates"][0]["measured"]["kl"]
        assert measured[1]["kl"] == pytest.approx(measured[0]["kl"], rel=0.02)


def test_an_error_in_one_process_ends_all_with_one_line(folder: Path, tmp_path: Path) -> None:
    """Fail in the second process, which cannot write its part of the answer; the first would wait for it."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import os, sys\n"
        "from graft_cli import main\n"
        "if os.environ['RANK'] == '1':\n"
        "    from graft.tasks.heads.similarity import SimilarityHead\n"
        "    from graft.errors import DataError\n"
        "    def fail(*_):\n"
        "        raise DataError('the second process has had enough')\n"
        "    SimilarityHead.logits = fail\n"
        "main()\n"
    )
    task = folder / "toy" / "task.yaml"
    run = torchrun(broken, "train", folder / "base", "--task", task, "-o", tmp_path / "out")
    assert run.returncode == 1
    assert [line for line in run.stderr.splitlines() if line.startswith("error:")] == [
        "error: the second process has had enough"
    ]
    assert 'Traceback (most recent call last):\n  File "' + str(broken) not in run.stderr
    assert run.stdout == ""
    assert not (tmp_path / "out").exists()


def test_the_command_line_speaks_once(out: Path) -> None:
    stdout, stderr = json.loads((out / "said.json").read_text())
    assert json.loads(stdout)["k"] == 20
    *_, said = stderr.split(worker.SPEAKING)
    assert "error" not in said
    assert stderr.count(worker.SPEAKING) == 2  # both processes ran it
    assert len(load_patch(out / "skill.safetensors")) == 20
