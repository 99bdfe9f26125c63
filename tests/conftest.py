"""What is built once for the whole run: a tiny base, a toy task, and the base tuned on it."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded; the processes that tests start inherit it
import torch

from graft.tasks.task import Task
from graft.train.fine_tuning import train_task
from tests.few_draws import few_draws
from tests.models import write_base, write_task
from tests.shared_builds import build_once

# the same examples in every run, whatever a folder holds from an earlier one, and however busy the machine is
hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")
torch.set_num_threads(1)  # tiny models are quickest with one, and bits do not depend on the machine


for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # as in a background job, whose children would inherit it
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="module")
def resample_few() -> Iterator[None]:
    with few_draws():
        yield


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that tests read and do not write: base/, toy/task.yaml, tuned/."""

    def build(folder: Path) -> None:
        folder.mkdir()
        write_base(folder / "base")
        train_task(folder / "base", Task.load(write_task(folder / "toy")), folder / "tuned")

    return build_once(tmp_path_factory, "shelf", build)


@pytest.fixture
def base(shelf: Path) -> Path:
    return shelf / "base"


@pytest.fixture
def tuned(shelf: Path) -> Path:
    return shelf / "tuned"


@pytest.fixture
def task_file(shelf: Path) -> Path:
    return shelf / "toy" / "task.yaml"


@pytest.fixture
def task(task_file: Path) -> Task:
    return Task.load(task_file)


def pytest_collection_finish() -> None:
    """Leave out of garbage collection what is there to stay: thousands of tests, and the modules that they import."""
    gc.collect()
    gc.freeze()
