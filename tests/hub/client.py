"""The `graft` command in a process of its own, kept alive: huggingface_hub reads HF_ENDPOINT when it is imported.

The process answers JSON lines. It does not really wait where the client wants to wait before it tries again: it
notes the seconds, so that a test takes no longer than its requests. Intervals are of few resamples.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from huggingface_hub import constants

ROOT = Path(__file__).parents[2]
LOOP = """
import contextlib, io, json, sys, time, traceback
waits = []
time.sleep = lambda seconds: waits.append(seconds)
from graft_cli import main
from tests.few_draws import few_draws
channel, sys.stdout = sys.stdout, sys.stderr
with few_draws():
    for line in sys.stdin:
        asked, out, err = json.loads(line), io.StringIO(), io.StringIO()
        waits.clear()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                if "code" in asked:
                    exec(compile(asked["code"], "<asked>", "exec"), {"__name__": "asked"})
                    code = 0
                else:
                    main(asked["arguments"])
            except SystemExit as left:
                code = left.code
            except BaseException:
                traceback.print_exc()
                code = 1
        answer = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "waits": list(waits)}
        print(json.dumps(answer), file=channel, flush=True)
"""
AFRESH = """
from huggingface_hub import constants
constants.HF_HUB_OFFLINE, constants.HF_HUB_DOWNLOAD_TIMEOUT = False, {timeout}
"""


@dataclass(frozen=True)
class Finished:
    """What a command left: exit code, streams, and the seconds that it wanted to wait."""

    code: int
    out: str
    err: str
    waits: list[float]

    @property
    def line(self) -> str:
        """The one line of an error."""
        return next(line for line in reversed(self.err.splitlines()) if line.startswith("error: "))

    def json(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        result: dict[str, Any] = json.loads(self.out)
        return result


class Client:
    """One process with its own cache, working in `folder`."""

    def __init__(self, endpoint: str, folder: Path, token: str | None = None, **more: str) -> None:
        self.home = folder / "hf_home"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}", "OMP_NUM_THREADS": "1"}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(self.home), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}
        if token:
            environment["HF_TOKEN"] = token
        command = [sys.executable, "-c", LOOP]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder, text=True
        )

    def __call__(self, *arguments: object) -> Finished:
        """Run a command."""
        return self._ask({"arguments": [str(argument) for argument in arguments]})

    def run(self, code: str) -> Finished:
        """Run Python."""
        return self._ask({"code": code})

    def _ask(self, asked: Mapping[str, Any]) -> Finished:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process is gone"
        return Finished(**json.loads(answer))

    def afresh(self) -> Client:
        """Empty its folder and cache, and take back what tests change in the process."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.run(AFRESH.format(timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT))
        return self

    def cached(self) -> list[str]:
        """Names of the blobs and of unfinished downloads in the cache."""
        found = (path for path in self.home.rglob("blobs/*") if path.is_file())
        return sorted(path.name for path in found)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # it holds nothing, and torch takes its time to leave
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait(timeout=30)
