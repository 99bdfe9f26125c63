"""What the Hub or we refuse: one line that tells what to do, and nothing published or written."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.errors import ConfigError, PatchError
from graft.hub.base_model import BaseModel, License, check_id, choose_license
from graft.hub.privacy import refuse_private
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from tests.checkpoints import files_below
from tests.hub.client import Client, Finished
from tests.hub.local_hub import LocalHub

OFFLINE = "from huggingface_hub import constants as c; c.HF_HUB_OFFLINE = {}"
TOKEN = "import os; os.environ.{}"


def refused(finished: Finished, pattern: str) -> None:
    assert (finished.code, finished.out) == (1, ""), finished.err
    assert "Traceback" not in finished.err
    assert "a bug" not in finished.err
    assert re.search(pattern, finished.line), finished.line


Case = Callable[[Client], Finished]
PULLS: dict[str, tuple[str, Case]] = {
    "no such repository": (r"there is no bob/none that you may see: check the name", lambda c: c("pull", "bob/none")),
    "a private one": (r"no bob/secret that you may see.*set HF_TOKEN", lambda c: c("inspect", "bob/secret")),
    "a gated one": (r"bob/gated is gated: ask for access on its page", lambda c: c("pull", "bob/gated")),
    "a gated one from afar": (r"bob/gated is gated: ask", lambda c: c("inspect", "bob/gated")),
    "a revision that is gone": (r"bob/base has no revision v9", lambda c: c("pull", "bob/base@v9")),
    "a commit that is gone": (r"bob/base has no revision 0000", lambda c: c("pull", f"bob/base@{'0' * 40}")),
    "a model": (r"bob/base holds no patch.safetensors", lambda c: c("pull", "bob/base")),
    "junk": (r"patch.safetensors: not a safetensors file", lambda c: c("pull", "bob/junk")),
    "junk from afar": (r"bob/junk/patch.safetensors: not a safet", lambda c: c("inspect", "bob/junk")),
    "a header bomb": (r"not a safetensors file, or cut short", lambda c: c("inspect", "bob/bomb")),
    "a model in the patch's place": (r"not a skill patch", lambda c: c("inspect", "bob/model")),
    "no Hub id": (r"'a b' is not a Hub id", lambda c: c("pull", "a b")),
    "both were tried": (r"bob/none: no such local path, and the Hub gave", lambda c: c("inspect", "bob/none")),
    "a path is never asked for": (r"\./bob/none: no such file or folder$", lambda c: c("inspect", "./bob/none")),
}


@pytest.fixture
def full_hub(hub: LocalHub, shelf: Path) -> LocalHub:
    if "bob/junk" not in hub.repositories:
        weights = (shelf / "base" / "model.safetensors").read_bytes()
        hub.add("bob/secret", {"patch.safetensors": b""}, owner="bob", private=True)
        hub.add("bob/gated", {"patch.safetensors": b""}, owner="bob", gated=True)
        hub.add("bob/junk", {"patch.safetensors": b"junk" * 99}, owner="bob")
        hub.add("bob/bomb", {"patch.safetensors": (2**60).to_bytes(8, "little") + b"{}" * 99}, owner="bob")
        hub.add("bob/model", {"patch.safetensors": weights}, owner="bob")
        hub.add("bob/bound", {"README.md": b"---\nlicense: llama3.1\n---\n"}, owner="bob")
    return hub


@pytest.mark.parametrize("name", PULLS)
def test_what_cannot_be_fetched(name: str, full_hub: LocalHub, carol: Client) -> None:
    pattern, case = PULLS[name]
    out = carol.folder / "out"

    def call(*arguments: object) -> Finished:
        return carol(*arguments, *(["-o", out] if arguments[0] == "pull" else []))

    refused(case(call), pattern)  # type: ignore[arg-type]
    assert not out.exists()
    assert [file for file in files_below(carol.folder) if "incomplete" in file] == []


def test_a_path_asks_the_hub_nothing(full_hub: LocalHub, carol: Client) -> None:
    carol("inspect", "./bob/none")
    assert full_hub.log == []
    carol("inspect", "bob/none")
    assert full_hub.log  # it would be seen


def test_offline_only_what_is_cached(hub: LocalHub, alice: Client, carol: Client, skill: Path) -> None:
    assert alice("push", skill, "cached", "--license", "mit").code == 0
    carol.run(OFFLINE.format(True))
    try:
        line = r"HF_HUB_OFFLINE is set and alice/cached is not in the cache"
        refused(carol("pull", "alice/cached", "-o", "offline"), line)
        refused(carol("inspect", "alice/cached"), line)
        carol.run(OFFLINE.format(False))
        assert carol("apply", "bob/base", "alice/cached", "-o", "once").code == 0
        carol.run(OFFLINE.format(True))
        assert carol("inspect", "alice/cached").code == 0
        assert carol("verify", "alice/cached", "--base", "bob/base").out == "fits\n"
        hub.order()
        assert alice("push", skill, "cached", "--dry-run").code == 0
    finally:
        carol.run(OFFLINE.format(False))
    assert "--dry-run" not in str(hub.log)


def test_a_dry_run_works_offline_and_says_what_it_could_not_ask(carol: Client, skill: Path) -> None:
    carol.run(OFFLINE.format(True))
    try:
        shown = carol("push", skill, "alice/x", "--base-model", "bob/base", "--dry-run")
    finally:
        carol.run(OFFLINE.format(False))
    assert shown.code == 0
    assert "note: the Hub was not asked about bob/base: its license and other patches are unknown" in shown.err


def test_nobody_is_there(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:9", tmp_path) as client:
        refused(client("inspect", "bob/base"), r"the connection to the Hub broke \(ConnectError\): try again")
        refused(client("evaluate", "bob/base", "--task", "x.yaml"), r"x.yaml: cannot be read")


def test_who_may_publish(hub: LocalHub, alice: Client, carol: Client, skill: Path) -> None:
    refused(carol("push", skill, "bob/x"), r"the Hub must know who you are: set HF_TOKEN or run `hf auth login`")
    carol.run(TOKEN.format("update(HF_TOKEN='hf_wrong')"))
    refused(carol("push", skill, "bob/x"), r"the Hub does not accept the token")
    carol.run(TOKEN.format("pop('HF_TOKEN')"))
    for name in ("bob/base", "bob/new"):
        refused(alice("push", skill, name), rf"not published: the token has no right to do that in {name}")
    assert "bob/new" not in hub.repositories
    assert "patch.safetensors" not in hub.repositories["bob/base"].branches["main"][-1].tree


def test_which_base_may_be_named(full_hub: LocalHub, alice: Client, skill: Path, shelf: Path) -> None:
    push = ("push", skill, "based", "--base-model")
    refused(alice(*push, "bob/none"), r"base model: there is no bob/none.*--base-model names another")
    refused(alice(*push, shelf / "base"), r"--base-model: '.*' is not a Hub id; write NAME or ORG/NAME, not a path")
    full_hub.add("bob/other", {"model.safetensors": (skill).read_bytes()}, owner="bob")
    refused(alice(*push, "bob/other"), r"the patch does not fit bob/other: tensor '.*': the model has no such tensor")
    refused(alice(*push, "bob/bound", "--license", "mit"), r"'mit': bob/bound is under 'llama3.1'.*state the same one")
    assert "alice/based" not in full_hub.repositories
    made = alice(*push, "bob/bound")  # which holds no weights: that is noted
    assert (made.code, "was not compared with bob/bound" in made.err) == (0, True)
    card = full_hub.repositories["alice/based"].branches["main"][-1].tree["README.md"].decode()
    assert "license: llama3.1" in card


def test_other_wrong_wishes(alice: Client, skill: Path) -> None:
    refused(alice("push", skill, "a b"), r"REPO_ID: 'a b' is not a Hub id")
    refused(alice("push", skill, "x", "--dataset", "/data/x"), r"--dataset: '/data/x' is not a Hub id")
    refused(alice("push", skill, "x", "--create-pr", "--revision", "v1"), r"--create-pr and --revision exclude")
    refused(alice("push", "/nowhere", "x"), r"/nowhere: no such file or folder")


def test_a_licence_is_settled() -> None:
    free, bound = (BaseModel("b", License(name)) for name in ("mit", "llama3.1"))
    unknown = BaseModel("b")
    assert choose_license(None, free) == License("mit")
    assert choose_license("gpl-3.0", free) == License("gpl-3.0")
    assert choose_license("llama3.1", bound) == License("llama3.1")
    assert choose_license("mit", unknown) == choose_license("mit", None) == License("mit")
    assert choose_license(None, unknown) is choose_license(None, None) is None
    with pytest.raises(ConfigError, match="state the same one"):
        choose_license("mit", bound)


@pytest.mark.parametrize("text", ["../x", "a/b/c", "/home/me/model", "a b", "x" * 200, "a--b", "~/m", ""])
def test_what_is_no_hub_id(text: str) -> None:
    assert check_id("bert-base", "id") == "bert-base"
    with pytest.raises(ConfigError, match="is not a Hub id"):
        check_id(text, "id")


@pytest.mark.parametrize(
    "text",
    ["/home/me/models/base", "see /Users/me/x", "~/models", r"C:\models", "file:///x", "path=/tmp/x", str(Path.home())],
)
def test_places_of_a_machine_are_not_published(text: str, skill: Path, tmp_path: Path, alice: Client) -> None:
    refuse_private({"a": ["a/b", "and/or", "1e-4", "C: yes", "~5 films", "runs/tuned", {"b": "~"}]}, "x")
    with pytest.raises(PatchError, match=r"^x\.a\[0\]\.b: .* names a place on a machine"):
        refuse_private({"a": [{"b": text}]}, "x")
    if text.startswith("/home"):
        patch = load_patch(skill)
        provenance = dataclasses.replace(patch.provenance, method={"model": text})
        save_patch(dataclasses.replace(patch, provenance=provenance), tmp_path / "p")
        refused(alice("push", tmp_path / "p", "x"), r"the patch's metadata\.method\.model: .* names a place")


def test_names_of_machine_and_user_are_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-node-7")
    monkeypatch.setattr("getpass.getuser", lambda: "jdoe42")
    refuse_private({"a": ["gpu-node-70", "jdoe", "a gpu node"]}, "x")
    for text in ("run on gpu-node-7.", "jdoe42", "by jdoe42"):
        with pytest.raises(PatchError, match=r"x\.a: .* names a machine or its user"):
            refuse_private({"a": text}, "x")
    monkeypatch.setattr("socket.gethostname", lambda: "roots")
    refuse_private({"a": "roots"}, "x")  # which may be any word
