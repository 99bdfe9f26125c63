"""One process publishes, another fetches: the same bytes, the same evaluation."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from graft.patch.format.integrity import TABLE_AGREES
from graft.patch.format.reading import load_patch, load_region
from graft.patch.format.writing import save_patch
from graft.patch.summary import describe_patch
from tests.checkpoints import equal_patches
from tests.hub.client import Client
from tests.hub.local_hub import LocalHub


@pytest.fixture(scope="module")
def published(running: LocalHub, alice: Client, skill: Path) -> str:
    """alice/moods, published once."""
    made = alice("push", skill, "moods", "--base-model", "bob/base", "--json").json()
    assert made["repository"] == "alice/moods"
    return str(made["commit"])


def test_a_push_is_one_commit_with_every_file(hub: LocalHub, published: str, skill: Path) -> None:
    _, commit = hub.repositories["alice/moods"].branches["main"]
    assert commit.sha == published
    assert set(commit.tree) == {".gitattributes", "README.md", "layers.png", "patch.safetensors"}
    assert commit.tree["patch.safetensors"] == skill.read_bytes()
    assert commit.tree["layers.png"].startswith(b"\x89PNG")


def test_another_process_pulls_verifies_grafts_and_evaluates_to_the_last_digit(
    hub: LocalHub, alice: Client, carol: Client, published: str, skill: Path, shelf: Path
) -> None:
    task = shelf / "toy" / "task.yaml"
    here = alice("evaluate", shelf / "base", "--task", task, "--patch", skill, "--json").json()
    bare = alice("evaluate", shelf / "base", "--task", task, "--json").json()
    assert here["accuracy"] != bare["accuracy"]  # the patch tells
    pulled = carol("pull", "alice/moods", "-o", "moods", "--json").json()
    assert (pulled["revision"], pulled["k"]) == (published, 300)
    assert sorted(pulled["files"]) == ["README.md", "layers.png", "patch.safetensors"]
    assert (carol.folder / "moods" / "patch.safetensors").read_bytes() == skill.read_bytes()
    assert carol("verify", "moods", "--base", "bob/base", "--full", "--json").json() == {"fits": True, "reasons": []}
    there = carol("evaluate", "bob/base", "--task", task, "--patch", "moods", "--json").json()
    assert there == here
    assert carol("evaluate", "bob/base", "--task", task, "--patch", "alice/moods", "--json").json() == here
    assert carol("apply", "bob/base", "alice/moods", "-o", "merged").code == 0
    assert carol("evaluate", "merged", "--task", task, "--json").json() == here


def test_the_card_s_own_lines_run(hub: LocalHub, carol: Client, published: str) -> None:
    card = hub.repositories["alice/moods"].branches["main"][-1].tree["README.md"].decode()
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    assert code.count("\n") <= 10
    inside = "inside = {k: v.clone() for k, v in model.state_dict().items()}"
    after = "moved = sum(int((inside[k] != v).sum()) for k, v in model.state_dict().items()); print(moved)"
    finished = carol.run(code.replace("...", inside) + after)
    assert (finished.code, finished.out) == (0, "300\n"), finished.err


def test_pinned_to_a_commit_a_cached_patch_needs_no_request(hub: LocalHub, carol: Client, published: str) -> None:
    name = f"alice/moods@{published}"
    assert carol("inspect", name).code == 0
    carol.run(f"import graft; graft.pull_patch({name!r})")
    hub.order()
    finished = carol.run(f"import graft; print(len(graft.pull_patch({name!r})))")
    assert (finished.out, hub.log) == ("300\n", [])
    assert carol("inspect", name).code == 0
    assert hub.log == []
    carol.run("import graft; graft.pull_patch('alice/moods')")
    assert hub.log  # a request would be seen


def test_inspect_reads_the_header_alone_and_says_the_same(
    hub: LocalHub, carol: Client, published: str, skill: Path
) -> None:
    hub.order()
    seen = carol("inspect", "alice/moods", "--json").json()
    assert seen.pop("integrity") == TABLE_AGREES
    assert seen == json.loads(json.dumps(describe_patch(*_region(skill))))
    assert [line.split()[0] for line in hub.log] == ["GET", "GET"]  # where it is, and its first bytes
    assert not any("README" in line for line in hub.log)


def _region(path: Path) -> tuple[object, int, object]:
    region, provenance = load_region(path)
    return region, path.stat().st_size, provenance


def test_verify_from_afar_compares_headers_and_fetches_nothing_large(
    hub: LocalHub, carol: Client, published: str
) -> None:
    seen = carol("verify", "alice/moods", "--base", "bob/base")
    assert (seen.code, seen.out.splitlines()) == (
        0,
        ["fits", "(by names, shapes and dtypes; values were not fetched)"],
    )
    other = hub.repositories["alice/moods"].branches["main"][-1].tree["patch.safetensors"]
    hub.add("bob/other", {"model.safetensors": other})
    hub.order()
    wrong = carol("verify", "alice/moods", "--base", "bob/other", "--json")
    assert wrong.code == 1
    found = json.loads(wrong.out)
    assert (found["fits"], found["checked"]) == (False, "headers")
    assert "the model has no such tensor" in found["reasons"][0]


def test_a_second_push_of_the_same_makes_no_second_commit(
    hub: LocalHub, alice: Client, published: str, skill: Path
) -> None:
    before = len(hub.repositories["alice/moods"].branches["main"])
    made = alice("push", skill, "alice/moods", "--base-model", "bob/base", "--json").json()
    assert (made["commit"], len(hub.repositories["alice/moods"].branches["main"])) == (published, before)


def test_patches_of_one_base_know_each_other(hub: LocalHub, alice: Client, published: str, skill: Path) -> None:
    made = alice("push", skill, "second", "--base-model", "bob/base", "--dry-run", "--json").json()
    assert "- [alice/moods](/alice/moods)" in made["card"]
    assert "/models?other=base_model:adapter:bob/base" in made["card"]
    own = alice("push", skill, "moods", "--base-model", "bob/base", "--dry-run", "--json").json()
    assert "](/alice/moods)" not in own["card"]


def test_a_dry_run_prints_card_and_files_and_sends_nothing(hub: LocalHub, alice: Client, skill: Path) -> None:
    shown = alice("push", skill, "unseen", "--dry-run")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0] == "---"
    assert "would commit to alice/unseen:" in lines
    assert any(line.startswith("patch.safetensors") and line.endswith("bytes") for line in lines)
    assert "note: the base is local (base), so that the card names no base_model; pass --base-model" in shown.err
    assert "base_model" not in shown.out.partition("\n---\n")[0]
    assert "alice/unseen" not in hub.repositories
    assert all(line.startswith("GET") for line in hub.log)


def test_branch_pull_request_private_and_message(hub: LocalHub, alice: Client, carol: Client, skill: Path) -> None:
    assert alice("push", skill, "tried", "--private", "--message", "First try", "--revision", "next").code == 0
    tried = hub.repositories["alice/tried"]
    assert tried.private
    assert [commit.title for commit in tried.branches["next"]] == ["initial commit", "First try"]
    assert len(tried.branches["main"]) == 1
    asked = alice("push", skill, "tried", "--create-pr", "--json").json()
    assert asked["pull_request"].endswith("/alice/tried/discussions/1")
    assert "patch.safetensors" in tried.branches["refs/pr/1"][-1].tree
    assert len(tried.branches["main"]) == 1
    assert "there is no alice/tried that you may see" in carol("pull", "alice/tried@next", "-o", "none").line
    assert alice("pull", "alice/tried@next", "-o", "next").code == 0


def test_a_recipe_goes_along(hub: LocalHub, alice: Client, carol: Client, skill: Path) -> None:
    recipe = alice.folder / "moods.yaml"
    recipe.write_text("name: moods\nbase: embedded\n", encoding="utf-8")
    assert alice("push", skill, "cooked", "--recipe", recipe).code == 0
    assert carol("pull", "alice/cooked", "-o", "cooked").code == 0
    assert (carol.folder / "cooked" / "recipe.yaml").read_bytes() == recipe.read_bytes()
    recipe.write_text("name: moods\nbase: /home/alice/models/base\n", encoding="utf-8")
    refused = alice("push", skill, "cooked", "--recipe", recipe)
    assert refused.line.startswith("error: moods.yaml.base: '/home/alice/models/base' names a place on a machine")


def test_a_mask_is_shared_too(hub: LocalHub, alice: Client, carol: Client, skill: Path) -> None:
    save_patch(load_patch(skill).mask, alice.folder / "core")
    assert alice("push", "core", "core").code == 0
    card = hub.repositories["alice/core"].branches["main"][-1].tree["README.md"].decode()
    assert "A **core region**: 300 weights" in card
    assert "apply_patch" not in card
    seen = carol("inspect", "alice/core", "--json").json()
    assert (seen["kind"], seen["k"]) == ("mask", 300)
    assert carol("pull", "alice/core", "-o", "core", "--json").json()["k"] == 300


def test_what_was_published_names_no_place_of_a_machine(
    hub: LocalHub, published: str, shelf: Path, alice: Client
) -> None:
    tree = hub.repositories["alice/moods"].branches["main"][-1].tree
    for words in (str(shelf), str(Path.home()) + "/", str(alice.folder), "127.0.0.1", "localhost"):
        assert not any(words.encode() in data for data in tree.values())


def test_in_python(hub: LocalHub, alice: Client, carol: Client, skill: Path) -> None:
    code = f"""
import graft
patch = graft.load_patch({str(skill)!r})
pushed = graft.push_patch(patch, 'by-hand', base_model='bob/base', licence='mit', datasets=['bob/reviews'])
print(pushed.repository, 'license: mit' in pushed.card, 'bob/reviews' in pushed.card)
"""
    assert alice.run(code).out == "alice/by-hand True True\n"
    code = "from pathlib import Path; import graft; print(len(graft.pull_patch('alice/by-hand', Path('by-hand'))))"
    assert carol.run(code).out == "300\n"
    assert equal_patches(load_patch(carol.folder / "by-hand"), load_patch(skill))


def test_the_guide_s_lines_publish_here_and_evaluate_the_same_there(
    hub: LocalHub, alice: Client, carol: Client, skill: Path, shelf: Path
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "guides" / "share.md").read_text(encoding="utf-8")
    block = "".join(re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[:2])
    meant = {"$BASE": str(shelf / "base"), "$TASK": str(shelf / "toy" / "task.yaml"), "me/": "alice/"}
    for word, meaning in meant.items():
        block = block.replace(word, meaning)
    shutil.copyfile(skill, alice.folder / "skill.safetensors")
    shown = {}
    for line in block.splitlines():
        _, name, *arguments = shlex.split(line, comments=True)
        finished = (alice if name == "push" else carol)(name, *arguments)
        assert finished.code == 0, (line, finished.err)
        shown[name] = finished.out
    assert set(shown) == {"push", "inspect", "verify", "evaluate", "pull"}
    where = ["--task", meant["$TASK"], "--patch", "skill.safetensors"]
    assert alice("evaluate", meant["$BASE"], *where).out == shown["evaluate"]
    assert (carol.folder / "topics" / "patch.safetensors").read_bytes() == skill.read_bytes()


def test_nothing_but_the_known_files_is_fetched_and_none_that_is_too_large(
    hub: LocalHub, carol: Client, skill: Path
) -> None:
    files = {"patch.safetensors": skill.read_bytes(), "README.md": b"#" * (2**24 + 1), "layers.png": b"\x89PNG"}
    hub.add("bob/more", files | {"evil.py": b"1/0", "model.bin": b"x"})
    assert carol("pull", "bob/more", "-o", "more", "--json").json()["files"] == ["patch.safetensors", "layers.png"]
    assert sorted(file.name for file in (carol.folder / "more").iterdir()) == ["layers.png", "patch.safetensors"]
    assert not [line for line in hub.log if "evil" in line or "model.bin" in line or "README" in line]


def test_the_token_does_not_follow_to_the_store(hub: LocalHub, alice: Client, published: str) -> None:
    assert alice("inspect", "alice/moods").code == 0
    assert alice("pull", "alice/moods", "-o", "own").code == 0
    stored = [line for line in hub.log if "/store/" in line]
    assert stored
    assert not [line for line in stored if line.endswith("with a token")]
    assert [line for line in hub.log if line.endswith("with a token")]


def test_what_a_run_left_beside_its_main_patch_goes_along(
    hub: LocalHub, alice: Client, carol: Client, skill: Path, tmp_path: Path
) -> None:
    for run, base in (("open", "org/base"), ("local", str(tmp_path))):
        folder = tmp_path / run / "patches"
        folder.mkdir(parents=True)
        recipe = {"name": "moods", "base": base, "localize": {"method": "magnitude"}}
        results = {"schema": 1, "kind": "single", "recipe": recipe, "seeds": []}
        (tmp_path / run / "results.json").write_text(json.dumps(results))
        (tmp_path / run / "reliability.png").write_bytes(b"\x89PNG")
        for method in ("magnitude", "random"):
            shutil.copyfile(skill, folder / f"{method}-seed-0.safetensors")
    shown = {
        (run, method): alice(
            "push", tmp_path / run / "patches" / f"{method}-seed-0.safetensors", "ran", "--dry-run", "--json"
        )
        for run in ("open", "local")
        for method in ("magnitude", "random")
    }
    more = {
        key: set(found.json()["files"]) - {"patch.safetensors", "README.md", "layers.png"}
        for key, found in shown.items()
    }
    assert more["open", "magnitude"] == {"recipe.json", "reliability.png"}
    assert more["open", "random"] == more["local", "random"] == set()  # a control's patch is not what the plot shows
    assert more["local", "magnitude"] == {"reliability.png"}
    assert "note: the run's recipe stays here (recipe.json.recipe.base:" in shown["local", "magnitude"].err
    assert alice("push", tmp_path / "open" / "patches" / "magnitude-seed-0.safetensors", "ran").code == 0
    assert "recipe.json" in carol("pull", "alice/ran", "-o", "ran", "--json").json()["files"]


def test_of_a_run_with_a_refit_the_plot_goes_along_with_the_refit_alone(
    alice: Client, skill: Path, tmp_path: Path
) -> None:
    recipe = {"name": "moods", "base": "org/base", "localize": {"method": "magnitude"}, "refit": {"density": 1e-4}}
    run = tmp_path / "run"
    (run / "patches").mkdir(parents=True)
    (run / "results.json").write_text(json.dumps({"schema": 1, "kind": "single", "recipe": recipe, "seeds": []}))
    (run / "reliability.png").write_bytes(b"\x89PNG")  # of base, tuned model and refit: no bar of it is the cut's
    for method in ("magnitude", "refit"):
        file = run / "patches" / f"{method}-seed-0.safetensors"
        shutil.copyfile(skill, file)
        pushed = alice("push", file, "ran", "--dry-run", "--json").json()
        assert ("reliability.png" in pushed["files"]) == (method == "refit")
        assert ("(reliability.png)" in pushed["card"]) == (method == "refit")
