"""The folder that the pages' commands run in, and the `graft` that they call.

Everything in it has the name that the pages give it and is tiny: the base, the tasks, the recipe, and what the tutorial
leaves. `graft` is a script of a few lines that asks one kept-alive process (`tests.hub.client`), so that a command
costs no import of torch; its Hub is the tests' own. Tasks have few shots: whether a page runs does not depend on them.
"""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from graft.localize.diff import diff_checkpoints
from graft.patch.format.writing import save_patch
from graft.patch.merge import merge_patches
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.train.fine_tuning import train_task
from tests.hub.client import Client, Finished
from tests.hub.local_hub import LocalHub
from tests.models import MEALS, toy_rows, write_rows, write_task, write_yaml

SHIM = """#!{python} -SE
import json, os, socket, sys
with socket.create_connection(("127.0.0.1", {port})) as channel, channel.makefile("rw") as file:
    print(json.dumps([os.getcwd(), sys.argv[1:]]), file=file, flush=True)
    answer = json.loads(file.readline())
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""
NEW_PAGE = """
import builtins
from pathlib import Path
import graft.files.embedded
builtins.page = {}
graft.files.embedded.find_content = lambda entry: Path("base")
"""
TASK = "recipes/starter/topics/task.yaml"
EMBEDDED = "embedded:all-MiniLM-L6-v2"
PUBLISHED = "sentence-transformers/all-MiniLM-L6-v2"
LITTLE: dict[str, Any] = {"shots": 16, "train": {"lr": 0.1, "epochs": 2, "batch_size": 8}}  # no page learns in earnest
RECIPE = {
    "kind": "single",
    "name": "quickstart",
    "base": "../base",
    "task": "starter/topics/task.yaml",
    "localize": {"method": "attribution", "density": 1e-2, "points": 2},
    "controls": ["magnitude", "random"],
    "seeds": [0],
}


def write_workplace(folder: Path, base: Path, tuned: Path) -> Path:
    """Write what every page may start from."""
    shutil.copytree(base, folder / "base")
    shutil.copytree(tuned, folder / "runs" / "tuned")
    starter = folder / "recipes" / "starter"
    for name in ("topics", "requests"):
        write_task(starter / name, **LITTLE)
    reviews = write_task(starter / "reviews", **LITTLE)
    write_rows(reviews.parent / "train.jsonl", toy_rows(160, 9, MEALS))
    write_yaml(folder / "recipes" / "quickstart.yaml", RECIPE)
    _write_plain_rows(folder)
    shutil.copytree(tuned, folder / "runs" / "topics")
    train_task(folder / "base", Task.load(reviews), folder / "runs" / "reviews")
    for name, model in {"skill": "topics", "topics": "topics", "reviews": "reviews"}.items():
        patch = diff_checkpoints(folder / "base", folder / "runs" / model, budget=300, scope="layers")
        save_patch(patch, folder / f"{name}.safetensors")
        if name == "skill":
            merge_patches(Checkpoint.open(folder / "base"), [patch], folder / "runs" / "merged")
    for task, model in {"trec": "topics", "mpqa": "reviews"}.items():
        patches = folder / "artifacts" / task / "patches"
        patches.mkdir(parents=True)
        for seed in (0, 1):
            patch = diff_checkpoints(folder / "base", folder / "runs" / model, budget=200 + 50 * seed)
            save_patch(patch, patches / f"learned-seed-{seed}.safetensors")
    return folder


def _write_plain_rows(folder: Path) -> None:
    """A task's rows under the names that the pages use: labels are words."""
    for seed, name in enumerate(("train", "validation", "test", "other")):
        rows = [row | {"label": ("negative", "positive")[row["label"]]} for row in toy_rows(160, seed)]
        write_rows(folder / f"{name}.jsonl", rows)


class Workplace:
    """A process, a Hub and a `graft` script; `enter` gives a page a fresh copy of the prepared folder."""

    def __init__(self, prepared: Path, folder: Path) -> None:
        self.prepared, self.folder = prepared, folder
        self.hub = LocalHub()
        self.hub.users["hf_me"] = "me"
        self.client = Client(self.hub.url, folder / "client", "hf_me", MPLBACKEND="agg")
        place = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                cwd, arguments = json.loads(self.rfile.readline())
                finished = place.run_command(Path(cwd), arguments)
                answer = {"code": finished.code, "out": finished.out, "err": finished.err}
                self.wfile.write((json.dumps(answer) + "\n").encode())

        self.server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        (folder / "bin").mkdir()
        shim = folder / "bin" / "graft"
        shim.write_text(SHIM.format(python=sys.executable, port=self.server.server_address[1]), encoding="utf-8")
        shim.chmod(0o755)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.client.__exit__(None, None, None)
        self.hub.close()

    def enter(self, page: str) -> Path:
        """A fresh copy of the prepared folder for a page: Python has no names yet, the Hub only the published encoder.

        The embedded encoder's name leads to the tiny base, for graft alone: transformers does not know it.
        """
        folder = self.folder / page.replace("/", "-")
        shutil.copytree(self.prepared, folder)
        self.hub.repositories.clear()
        self.hub.add(PUBLISHED, {"README.md": b"---\nlicense: apache-2.0\n---\n"})
        self.client.run(NEW_PAGE)
        return folder

    def run_command(self, folder: Path, arguments: list[str]) -> Finished:
        self.client.run(f"import os; os.chdir({str(folder)!r})")
        return self.client(*arguments)

    def run_python(self, folder: Path, code: str) -> Finished:
        """Run a block after those of the same page before it."""
        self.client.run(f"import os; os.chdir({str(folder)!r})")
        return self.client.run(f"import builtins; exec(compile({code!r}, '<page>', 'exec'), builtins.page)")

    def run_bash(self, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
        """Run a block by bash itself; what it sets is there in the page's next one."""
        state = folder.with_suffix(".variables")
        before = f"source {state}; " if state.exists() else ""
        after = f"declare -p BASE TASK GENERAL DOMAIN > {state} 2>/dev/null || true"
        script = f"set -euo pipefail; {before}{code}\n{after}\n"
        environment: dict[str, Any] = os.environ | {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        environment |= {"BASE": "./base", "TASK": TASK}
        return subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)


def make_tiny(code: str) -> str:
    """The block with the tiny base in the place of the embedded encoder."""
    return code.replace(EMBEDDED, "./base")
