"""An adapter beside a published patch: transformers and PEFT alone show the skill, or the push is refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from graft.localize.diff import diff_checkpoints
from graft.patch.format.writing import save_patch
from graft.sources.adapters.additive import add_difference, find_difference
from tests.hub.client import Client
from tests.hub.local_hub import LocalHub

FILES = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(scope="module")
def patches(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A patch whose values differences reach, and the same with one value that none reaches."""
    folder = tmp_path_factory.mktemp("patches")
    patch = diff_checkpoints(shelf / "base", shelf / "tuned", scope="layers", budget=300, with_base_values=True)
    assert patch.base_values is not None
    differences = {name: find_difference(patch.base_values[name], patch.values[name])[0] for name in patch.mask}
    reached = {name: add_difference(patch.base_values[name], differences[name]) for name in patch.mask}
    save_patch(dataclasses.replace(patch, values=reached, base_values=None), folder / "reached")
    first = next(name for name in reached if name.endswith("dense.weight"))
    reached[first] = reached[first].index_fill(0, torch.tensor([0]), -0.0)
    save_patch(dataclasses.replace(patch, values=reached, base_values=None), folder / "missed")
    return folder / "reached", folder / "missed"


def test_peft_alone_shows_the_skill(hub: LocalHub, alice: Client, carol: Client, patches: tuple[Path, Path]) -> None:
    pushed = alice("push", patches[0], "adapted", "--base-model", "bob/base", "--with-adapter", "--json").json()
    assert set(pushed["files"]) >= FILES
    tree = hub.repositories["alice/adapted"].branches["main"][-1].tree
    card = tree["README.md"].decode()
    own, by_peft = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    inside = "wanted, bits = model(tokens)[0], {k: v.clone() for k, v in model.state_dict().items()}"
    code = f"""
import torch
{by_peft}
tokens = torch.tensor([[5, 7, 9, 11]])
with torch.no_grad():
    side = model(tokens)[0]
{own.replace("...", inside)}
plain = model(tokens)[0]
from peft import PeftModel
merged = PeftModel.from_pretrained(model, "alice/adapted").merge_and_unload().state_dict()
print(bool((side - wanted).abs().max() < 1e-5 < (plain - wanted).abs().max()))
print(all(torch.equal(merged[k], bits[k]) for k in bits))
"""
    finished = carol.run(code)
    assert (finished.code, finished.out) == (0, "True\nTrue\n"), finished.err


def test_what_is_not_exact_is_not_pushed(hub: LocalHub, alice: Client, patches: tuple[Path, Path], shelf: Path) -> None:
    refused = alice("push", patches[1], "never", "--base-model", "bob/base", "--with-adapter")
    assert refused.code == 1
    assert re.search(r"--with-adapter: lora: no difference reaches 1 of 300 values", refused.line)
    local = alice("push", patches[1], "never", "--with-adapter", "--base", shelf / "base")
    assert (local.code, "pass --base-model HUB_ID" in local.line) == (1, True)
    assert "alice/never" not in hub.repositories
