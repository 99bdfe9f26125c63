"""The public names, what importing them costs, and a skill's whole way through them."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import graft
from tests.checkpoints import bits_of

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "numpy", "matplotlib", "safetensors", "huggingface_hub", "yaml")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("name", graft.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(graft, name)
    assert inspect.getdoc(found)
    assert found.__module__.startswith("graft.")
    if inspect.isfunction(found):
        assert all(
            parameter.annotation is not parameter.empty for parameter in inspect.signature(found).parameters.values()
        )
    else:
        methods = [item for key, item in vars(found).items() if not key.startswith("_") and inspect.isfunction(item)]
        assert all(inspect.getdoc(method) for method in methods)


def test_names_are_listed_and_others_refused() -> None:
    assert set(graft.__all__) < set(dir(graft))
    assert {"Mask", "Patch", "Report", "Task", "apply_patch", "load_patch", "train_task"} < set(graft.__all__)
    assert graft.__all__ == sorted(graft.__all__)
    with pytest.raises(AttributeError, match="module 'graft' has no attribute 'Skill'"):
        graft.Skill  # noqa: B018


def test_the_names_for_type_checkers_are_the_names_at_run_time() -> None:
    source = (ROOT / "graft" / "__init__.py").read_text()
    block = source.partition("if TYPE_CHECKING:")[2].partition("_HOMES")[0]
    declared = {line.split(" as ")[-1].strip() for line in block.splitlines() if " as " in line}
    assert declared == set(graft.__all__)


@pytest.mark.parametrize(
    "code", ["import graft", "import sys; sys.argv = ['graft', '--help']; import graft_cli; graft_cli.main()"]
)
def test_importing_and_asking_for_help_load_nothing_heavy(code: str) -> None:
    report = f"import sys, atexit; atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules]))\n"
    assert run("-c", report + code).stdout.splitlines()[-1] == "[]"
    assert run("-c", report + "import graft; graft.Mask").stdout.strip() != "[]"  # it would be seen


def test_a_skill_from_two_checkpoints_to_a_live_model_and_off_again(base: Path, tuned: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    patch = graft.diff_checkpoints(base, tuned, density=0.01)
    graft.save_patch(patch, tmp_path / "skill.safetensors")
    skill = graft.load_patch(tmp_path / "skill.safetensors")
    assert graft.load_mask(tmp_path / "skill.safetensors") == skill.mask
    model = AutoModel.from_pretrained(base)
    before = bits_of(model)
    with graft.apply_patch(model, skill) as grafted:
        assert isinstance(grafted, graft.Grafted)
        assert bits_of(model) != before
    assert bits_of(model) == before
