"""`graft serve` as a user starts it: a process, a skill from the Hub while it runs, and its end by a signal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from graft.server.running import is_loopback
from tests.cli.conftest import Cli, cli  # noqa: F401
from tests.hub.local_hub import LocalHub
from tests.models import write_task
from tests.server.client import refusal_of
from tests.server.writer import write_writer
from tests.shared_builds import build_once

ROOT = Path(__file__).parents[2]
TOKEN = "a token of sixteen characters"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@contextlib.contextmanager
def started(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a process, with its address once it answers."""
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}", "OMP_NUM_THREADS": "1", "SECRET": TOKEN}
    command = [sys.executable, "-m", "graft_cli", "serve", *map(str, arguments), "--port", "0", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | paths | environment
    ) as process:
        try:
            assert process.stdout is not None
            lines = [""]
            while lines[-1] != "}\n":
                lines.append(process.stdout.readline())
                assert lines[-1], process.communicate()[1]
            yield process, json.loads("".join(lines))["url"]
        finally:
            process.kill()


@pytest.fixture
def hub(patches: dict[str, Path]) -> Iterator[LocalHub]:
    """A Hub with two patches of bob's, one that is none, and one that is large."""
    hub = LocalHub()
    for name in ("moods", "noise"):
        hub.add(f"bob/{name}", {"patch.safetensors": patches[name].read_bytes()}, owner="bob")
    hub.add("bob/junk", {"patch.safetensors": b"junk" * 100}, owner="bob")
    hub.add("bob/empty", {"README.md": b"nothing"}, owner="bob")
    yield hub
    hub.close()


def test_skills_come_from_the_hub_and_go(shelf: Path, hub: LocalHub, tmp_path: Path) -> None:
    places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    with started(shelf / "base", "--token-env", "SECRET", **places) as (process, url):
        with httpx.Client(base_url=url, timeout=60, headers=HEADERS) as http:
            assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["base"]
            made = http.post("/skills", json={"name": "mine", "repo": "bob/moods"}).json()
            assert made["source"].startswith("bob/moods@")
            revision = made["source"].partition("@")[2]
            pinned = http.post("/skills", json={"name": "pinned", "repo": "bob/moods", "revision": revision})
            assert pinned.status_code == 200
            answer = http.post("/classify", json={"texts": ["good"], "skills": ["mine", "pinned"]}).json()["results"]
            assert answer[0]["predictions"] == answer[1]["predictions"]
            for repo, status, line in (
                ("bob/junk", 422, "bob/junk: not a safetensors file"),
                ("bob/empty", 502, "bob/empty holds no patch.safetensors"),
                ("bob/nothing", 502, "bob/nothing"),
            ):
                found, message = refusal_of(http.post("/skills", json={"name": "x", "repo": repo}))
                assert found == status, message
                assert line in message
                assert str(tmp_path) not in message
            assert http.delete("/skills/pinned").status_code == 200
            assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["base", "mine"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")


def test_a_signal_finishes_what_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = build_once(tmp_path_factory, "writer", write_writer)
    skill = f"loud={folder / 'loud.safetensors'}"
    with started(folder / "base", "--skill", skill) as (process, url):
        body = {"model": "loud", "prompt": "add one to two : ", "max_tokens": 200, "temperature": 0, "stream": True}
        ended: list[str] = []

        def read() -> None:
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as response:
                for line in response.iter_lines():
                    ended.append(line)
                    begun.set()

        begun = threading.Event()
        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(60)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
        reader.join(60)
        assert [line for line in ended if line][-1] == "data: [DONE]"
        assert process.returncode == 0, err
        assert err == ""
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--skill", "moods"], 2, "--skill moods: write it as NAME=VALUE"),
        (["--skill", "a=x", "--skill", "a=y"], 2, "--skill: a is there twice"),
        (["--calibrate"], 2, "--calibrate needs --task"),
        (["--token-env", "NOT_THERE"], 2, "NOT_THERE: the variable must hold a token of 16 characters or more"),
        (
            ["--token-env", "ACCENTS"],
            2,
            "ACCENTS: the variable must hold a token of 16 characters or more, printable ASCII",
        ),
        (["--timeout", "nan", "--plan"], 2, "Invalid value for '--timeout': nan is no finite number."),
        (["--timeout", "inf", "--plan"], 2, "Invalid value for '--timeout': inf is no finite number."),
        (["--task", "a=task.yaml"], 1, "'a' is no skill: name the patch too"),
        (["--router"], 2, "--router needs --task or --reference"),
        (["--reference", "a=x"], 2, "--reference needs --router"),
        (["--skill", "base=MOODS"], 1, "and not base or auto: 'base'"),
        (["--skill", "a+b=MOODS"], 1, "name must be up to 64 letters"),
        (["--skill", "a=./nothing"], 1, "./nothing: no such file or folder"),
    ],
)
def test_wrong_options_are_refused(
    cli: Cli,  # noqa: F811
    base: Path,
    patches: dict[str, Path],
    arguments: list[str],
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCENTS", "un mot de passe très sûr")
    finished = cli("serve", base, *(text.replace("MOODS", str(patches["moods"])) for text in arguments))
    assert finished.code == code
    assert line in finished.err


def test_a_task_that_the_base_has_no_head_for_cannot_calibrate(
    cli: Cli,  # noqa: F811
    base: Path,
    patches: dict[str, Path],
    tmp_path: Path,
) -> None:
    task = write_task(tmp_path, head={"kind": "classifier"})
    finished = cli("serve", base, "--skill", f"moods={patches['moods']}", "--task", f"moods={task}", "--calibrate")
    assert finished.code == 1
    assert "error: skill 'moods' has no labels to read: labels of a classifier head are read only where" in finished.err
    assert "a bug" not in finished.err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "localhost"])
def test_addresses_of_this_machine_alone_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "128.0.0.1", "10.0.0.1", "fe80::1", "localhost.example"])
def test_other_addresses_can_be_reached_from_outside(host: str) -> None:
    assert not is_loopback(host)


def test_missing_packages_are_named(cli: Cli, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    finished = cli("serve", base)
    assert finished.code == 1
    assert "serving needs fastapi, uvicorn, prometheus_client: pip install 'skillgraft[serve]'" in finished.err


def test_a_taken_port_is_refused(cli: Cli, base: Path) -> None:  # noqa: F811
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finished = cli("serve", base, "--port", port)
    assert finished.code == 1
    assert f"127.0.0.1:{port} cannot be listened at" in finished.err
