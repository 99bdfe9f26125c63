"""Seeds in processes of their own: the same results as one after another, and every way to fail in one clear line."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from graft.errors import DataError, GraftError
from graft.parallel.side_by_side import device_of, run_side_by_side, threads_of
from graft.recipes.run import run_recipe
from tests.models import write_yaml
from tests.parallel.seed_works import fail, leave, refuse, vanish, wait_until

FIRST = """
from functools import partial
from pathlib import Path
from graft.parallel.side_by_side import run_side_by_side
from tests.parallel.seed_works import wait
run_side_by_side(partial(wait, Path({folder!r})), [0, 1], [0], 2, "cpu", "tiny")
"""


def test_each_seed_has_its_line_and_its_share_of_threads(tmp_path: Path) -> None:
    assert "TQDM_POSTFIX" not in os.environ
    run_side_by_side(partial(leave, tmp_path), [5, 6, 7], [0, 2], 2, "cpu", "tiny")
    left = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert left == {"5": "1 seed 5 cpu 1", "7": "2 seed 7 cpu 1"}
    assert "TQDM_POSTFIX" not in os.environ


def test_the_first_failure_ends_the_others_and_is_raised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^row 3 has no text\n"):
        run_side_by_side(partial(refuse, tmp_path), [0, 1], [0, 1], 2, "cpu", "tiny")
    assert (tmp_path / "ended").exists()


def test_a_failure_that_no_pickle_holds_and_a_killed_process_are_told_in_one_line() -> None:
    with pytest.raises(GraftError, match=r"^seed 7: ValueError: <function") as caught:
        run_side_by_side(fail, [7], [0], 2, "cpu", "tiny")
    assert "in fail" in caught.value.__notes__[0]
    with pytest.raises(GraftError, match=r"^seed 7: its process was killed; where memory"):
        run_side_by_side(vanish, [7], [0], 2, "cpu", "tiny")


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", FIRST.format(folder=str(tmp_path))])
    wait_until((tmp_path / "pid").exists)
    first.kill()
    first.wait()
    other = Path("/proc") / (tmp_path / "pid").read_text()
    wait_until(lambda: not (other / "cmdline").exists() or not (other / "cmdline").read_bytes())  # gone, or a zombie


def test_a_script_that_does_its_work_when_it_is_imported_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(FIRST.format(folder=str(tmp_path)), encoding="utf-8")
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, env=os.environ | paths)
    assert "seed 0: its process ended before its work; a script keeps" in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "pid").exists()


def test_threads_are_shared_among_the_seeds_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [threads_of(place, 5, 3) for place in range(5)] == [2, 2, 2, 4, 4]
    assert [threads_of(place, 3, 2) for place in range(3)] == [4, 4, 8]
    assert threads_of(0, 16, 16) == 1


def test_gpus_are_shared_where_there_are_several_and_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [device_of(slot, "auto") for slot in range(2)] == ["auto", "auto"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of(slot, "auto") for slot in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [device_of(1, device) for device in ("cuda", "cuda:0", "cpu")] == ["cuda:1", "cuda:0", "cpu"]


def test_a_recipe_finds_the_same_side_by_side(shelf: Path, tmp_path: Path) -> None:
    write_yaml(
        recipe := tmp_path / "tiny.yaml",
        {
            **{"kind": "single", "name": "tiny", "base": str(shelf / "base"), "task": str(shelf / "toy/task.yaml")},
            **{"train": {"epochs": 1}, "localize": {"density": 0.05, "points": 1}, "seeds": [0, 1]},
        },
    )
    runs = {jobs: run_recipe(recipe, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2)}
    assert runs[2].results["summary"] == runs[1].results["summary"]
    for seed in (0, 1):
        files = [tmp_path / str(jobs) / "patches" / f"attribution-seed-{seed}.safetensors" for jobs in (1, 2)]
        one, two = (load_file(file) for file in files)
        assert one.keys() == two.keys()
        assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert not (tmp_path / "2" / "state").exists()
