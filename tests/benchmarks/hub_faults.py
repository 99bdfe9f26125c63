"""`python -m tests.benchmarks.hub_faults`: every fault in both directions, written to artifacts/hub_faults.md."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub

from graft.localize.movement import diff_checkpoints
from graft.patch.format.writing import save_patch
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task
from tests.hub.client import Client
from tests.hub.faults import Outcome, Scenario, pull_scenarios, pull_under, push_scenarios, push_under
from tests.hub.local_hub import LocalHub
from tests.models import write_base, write_task

OUT = Path("artifacts/hub_faults.md")
ABOUT = f"""\
# Faults between a client and the Hub

Written by `python -m tests.benchmarks.hub_faults`: the real huggingface_hub client ({huggingface_hub.__version__}, Xet
off) in processes of its own against the local Hub of the tests, a trained tiny model's patch, an empty cache and a new
repository or folder each time. "Whole" is every file with the right bytes, in one commit or one folder; "nothing" is
no commit with a patch, no folder, and no blob in the cache whose bytes are not those of its name. A new repository that
was made before the fault stays, empty. Waits are what the client asked for in all its threads, not what was waited
here.
"""


def main() -> None:
    """Run and write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_base(folder / "base")
        task = Task.load(write_task(folder / "toy"))
        train_task(folder / "base", task, folder / "tuned")
        patch = folder / "skill.safetensors"
        save_patch(diff_checkpoints(folder / "base", folder / "tuned", budget=300), patch)
        hub = LocalHub()
        with Client(hub.url, folder / "a", "hf_alice") as alice, Client(hub.url, folder / "b") as carol:
            text = _run(hub, alice, carol, patch)
        hub.close()
    OUT.write_text(text, encoding="utf-8")
    print(text)


def _run(hub: LocalHub, alice: Client, carol: Client, patch: Path) -> str:
    pushes = _measure(push_scenarios(), lambda item, i: push_under(hub, alice, item, patch, f"push-{i}"))
    alice("push", patch, "there", "--license", "mit")
    carol.run("from huggingface_hub import constants as c; c.HF_HUB_DOWNLOAD_TIMEOUT = 0.7")
    pulls = _measure(pull_scenarios(), lambda item, i: pull_under(hub, carol, item, "alice/there", f"pull-{i}"))
    every = [*pushes, *pulls]
    bad = sum(outcome.left != ("whole" if item.whole else "nothing") for item, outcome in every)
    summary = f"{len(every)} faults; partial, doubled, corrupt or unexpected results: {bad}.\n"
    return "\n".join([ABOUT, summary, "## Push\n", _table(pushes), "## Pull\n", _table(pulls)])


def _measure(scenarios: Sequence[Scenario], run: Callable[[Scenario, int], Outcome]) -> list[tuple[Scenario, Outcome]]:
    return [(scenario, run(scenario, i)) for i, scenario in enumerate(scenarios)]


def _table(rows: Sequence[tuple[Scenario, Outcome]]) -> str:
    lines = ["| fault | left behind | asked to wait | exit | said |", "|---|---|---|---|---|"]
    lines += [
        f"| {item.name} | {outcome.left} | {outcome.waited:g} s | {outcome.finished.code} | {outcome.said} |"
        for item, outcome in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
