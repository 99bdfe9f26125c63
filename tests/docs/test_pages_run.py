"""Every code block of the README and the site runs, on a tiny base and the tests' Hub; what cannot is parsed."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from graft_cli.entry import COMMANDS, group

from graft.recipes.registry import find_kind
from graft.specs.reader import read_config
from graft.specs.task import TaskSpec
from tests.docs.blocks import Block, find_pages, read_blocks
from tests.docs.workplace import EMBEDDED, Workplace, make_tiny, write_workplace

PAGES = [page for page in find_pages() if read_blocks(page)]
MADE = {  # what a page makes itself, and so must not find
    "README.md": ["runs/tuned", "runs/merged", "skill.safetensors"],
    "docs/tutorial.md": ["runs/tuned", "runs/merged", "skill.safetensors"],
    "docs/guides/compose.md": ["runs/topics", "runs/reviews", "topics.safetensors", "reviews.safetensors"],
}
AGAIN = {  # what two pages make: the second of them says what to do about it
    "runs/tuned": {"README.md", "docs/tutorial.md"},
    "runs/merged": {"README.md", "docs/tutorial.md"},
    "skill.safetensors": {"README.md", "docs/tutorial.md"},
    "runs/quickstart": {"README.md", "docs/guides/evaluate.md"},
}
ONLY_PARSED = {  # page and words of a block -> why it does not run here
    ("README.md", "make demo    #"): "installs packages and trains a real encoder for minutes",
    ("README.md", "pip install"): "installs packages",
    ("README.md", "trainer.model"): "shows a call within a program of the reader's",
    ("docs/index.md", "make demo"): "installs packages and trains a real encoder for minutes",
    ("docs/tutorial.md", "pip install"): "installs packages",
    ("docs/guides/localize.md", "graft rollback"): "needs a model that lost something in tuning",
    ("docs/guides/protect.md", "Trainer(model"): "shows a call within a program of the reader's",
    ("docs/guides/interop.md", "import lora"): "needs a LoRA of the reader's",
    ("docs/guides/interop.md", "graft.interop.harness"): "needs lm-evaluation-harness and data of the Hub",
    ("docs/guides/tasks.md", "pip install"): "installs packages",
    ("docs/guides/serving.md", "graft serve"): "serves until it is told to stop; tests/server runs it",
    ("docs/guides/serving.md", "openai.OpenAI"): "asks a server that runs",
    ("docs/guides/clusters.md", "torchrun"): "needs several GPUs, or a cluster",
    ("docs/guides/clusters.md", "TorchTrainer"): "needs Ray and several GPUs",
}


def why_only_parsed(page: str, block: Block) -> str | None:
    return next((why for (where, words), why in ONLY_PARSED.items() if where == page and words in block.code), None)


@pytest.fixture(scope="module")
def workplace(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    prepared = write_workplace(tmp_path_factory.mktemp("prepared"), shelf / "base", shelf / "tuned")
    place = Workplace(prepared, tmp_path_factory.mktemp("pages"))
    yield place
    place.close()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_top_to_bottom(page: str, workplace: Workplace) -> None:
    folder = workplace.enter(page)
    for made in MADE.get(page, []):
        shutil.rmtree(folder / made) if (folder / made).is_dir() else (folder / made).unlink()
    for block in read_blocks(page):
        if why_only_parsed(page, block) is None:
            check_block(block, folder, workplace, f"{page}:{block.line}")


def check_block(block: Block, folder: Path, workplace: Workplace, where: str) -> None:
    if block.file:
        (folder / block.file).write_text(make_tiny(block.code), encoding="utf-8")
    if block.language == "bash":
        finished = workplace.run_bash(folder, make_tiny(block.code))
        assert finished.returncode == 0, f"{where}: {finished.stderr}"
    elif block.language == "python":
        ran = workplace.run_python(folder, block.code)
        assert ran.code == 0, f"{where}: {ran.err}"
    elif block.language == "yaml":
        content = yaml.safe_load(block.code)
        read_config(TaskSpec if "data" in content else find_kind(content, where).load_spec(), content, where)
    elif block.language == "json":
        json.loads(block.code)
    else:
        assert block.language == "text", f"{where}: a block in a language that no test knows: {block.language!r}"


def test_a_page_that_uses_what_it_does_not_define_would_be_seen(workplace: Workplace) -> None:
    folder = workplace.enter("no-page")
    for code in ("print(BASE)", "print(TASK)"):
        assert "NameError" in workplace.run_python(folder, code).err
    ran = workplace.run_python(folder, f"import transformers\ntransformers.AutoModel.from_pretrained({EMBEDDED!r})")
    assert ran.code == 1
    assert EMBEDDED in ran.err


def commands_in(code: str) -> list[str]:
    lines = code.replace("\\\n", " ").splitlines()
    found = (re.search(r"(?:^\s*|; |-m )graft(?:_cli)? (\w.*)", line) for line in lines)
    return [match[1] for match in found if match]


def parse_command(line: str) -> None:
    """Parse and check a command line as click does; nothing runs."""
    name, *arguments = shlex.split(line, comments=True)
    context = click.Context(group)
    command = group.get_command(context, name)
    assert command is not None, f"there is no command {name}"
    command.make_context(name, arguments, parent=context)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_parses(page: str) -> None:
    for block in read_blocks(page):
        if block.language == "python":
            ast.parse(block.code)
        if block.language == "bash":
            assert subprocess.run(["bash", "-n"], input=block.code, text=True).returncode == 0
            for line in commands_in(block.code):
                parse_command(line)


def test_no_page_writes_what_another_one_has_written() -> None:
    made: dict[str, set[str]] = {}
    for page in PAGES:
        for block in read_blocks(page):
            if block.language == "bash" and why_only_parsed(page, block) is None:
                for output in re.findall(r"-o (\S+)", block.code):
                    made.setdefault(output, set()).add(page)
    assert {output: pages for output, pages in made.items() if len(pages) > 1} == AGAIN


def test_an_option_that_is_not_there_would_be_seen() -> None:
    with pytest.raises(click.NoSuchOption):
        parse_command("inspect skill.safetensors --no-such-option")


def test_every_command_is_shown_and_every_excuse_is_used() -> None:
    blocks = [(page, block) for page in PAGES for block in read_blocks(page)]
    assert {line.split()[0] for _, block in blocks for line in commands_in(block.code)} == set(COMMANDS)
    used = {key for page, block in blocks for key in ONLY_PARSED if key[0] == page and key[1] in block.code}
    assert used == set(ONLY_PARSED)
