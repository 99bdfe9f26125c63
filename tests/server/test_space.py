"""The folder of examples that makes a Hugging Face Space."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

from tests.server.test_serving import ROOT

SPACE = ROOT / "examples" / "space"


def test_a_space_serves_the_skills_of_its_list(tmp_path: Path) -> None:
    (tmp_path / "graft").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "graft").chmod(0o755)
    (tmp_path / "skills.txt").write_text("# skills\ntopics=me/topics\n\nreviews=me/reviews@0123")
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "BASE": "embedded:x"}
    script = ["sh", str(SPACE / "start.sh")]
    finished = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    settings = ["--host", "0.0.0.0", "--port", "7860", "--on-overlap", "last"]
    skills = ["--skill", "topics=me/topics", "--skill", "reviews=me/reviews@0123"]
    assert finished.stdout.split() == ["serve", "embedded:x", *settings, *skills]


def test_its_card_names_a_docker_space_and_its_port() -> None:
    _, front, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front)
    assert (card["sdk"], card["app_port"]) == ("docker", 7860)
    dockerfile = (SPACE / "Dockerfile").read_text(encoding="utf-8")
    assert "EXPOSE 7860" in dockerfile
    assert "USER user" in dockerfile
    assert '"skillgraft[serve]"' in dockerfile
