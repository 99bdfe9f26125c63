"""The shape of the code: who may import whom, what is loaded when, and how large things may grow."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import graft

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("graft/**/*.py"), *ROOT.glob("cli/**/*.py")])
Function = ast.FunctionDef | ast.AsyncFunctionDef
LIGHT = re.compile(
    r"graft\.(version|registry|specs\.(?!strict_yaml)\w+|(\w+\.)+registry)\.\w+$"
)  # modules without torch

# from the ground up: a file imports from its own line and from those above it; a folder's registry lies with `registry`
LAYERS = (
    {"errors", "interrupts", "version"},
    {"registry"},
    {"files"},
    {"specs"},
    {"arguments"},
    {"tensors"},
    {"sources"},
    {"parallel"},
    {"patch"},
    {"tasks"},
    {"scores"},
    {"localize"},
    {"compose"},
    {"mixture"},
    {"train"},
    {"refit"},
    {"controls"},
    {"extraction"},
    {"memory"},
    {"evaluate"},
    {"explain"},
    {"results"},
    {"report"},
    {"interop"},
    {"hub"},
    {"server"},
    {"recipes"},
    {"graft_cli"},
)
# what each folder may import from outside
PACKAGES = {
    "arguments": set(),
    "errors": set(),
    "registry": set(),
    "specs": {"yaml"},
    "version": set(),
    "interrupts": set(),
    "files": {"huggingface_hub"},
    "tensors": {"numpy", "safetensors", "torch", "tqdm", "transformers"},
    "sources": {"gguf", "numpy", "peft", "torch", "transformers"},
    "parallel": {"torch", "tqdm"},
    "patch": {"numpy", "safetensors", "scipy", "torch"},
    "tasks": {"accelerate", "datasets", "jinja2", "numpy", "pyarrow", "torch", "tqdm", "transformers"},
    "scores": {"numpy", "torch", "tqdm"},
    "localize": {"numpy", "torch", "tqdm"},
    "compose": {"numpy", "scipy", "torch", "tqdm"},
    "mixture": {"numpy", "safetensors", "torch", "transformers"},
    "train": {"numpy", "peft", "safetensors", "torch", "tqdm", "transformers"},
    "refit": {"numpy", "torch", "tqdm"},
    "controls": {"numpy", "torch"},
    "extraction": {"numpy", "safetensors", "torch", "tqdm"},
    "evaluate": {"numpy", "scipy", "torch"},
    "explain": {"numpy", "torch", "tqdm"},
    "results": {"numpy"},
    "report": {"matplotlib", "numpy", "scipy"},
    "memory": {"torch", "transformers"},
    "hub": {"huggingface_hub"},
    "server": {"fastapi", "huggingface_hub", "prometheus_client", "starlette", "torch", "uvicorn"},
    "interop": {"lm_eval", "numpy", "torch"},
    "recipes": {"numpy", "tqdm"},
    "graft_cli": {"click", "tqdm"},
}
LATE = {
    "accelerate",
    "datasets",
    "fastapi",
    "gguf",
    "huggingface_hub",
    "lm_eval",
    "peft",
    "prometheus_client",
    "pyarrow",
    "safetensors",
    "scipy",
    "sklearn",
    "starlette",
    "transformers",
    "uvicorn",
    "yaml",
}
BASES = {
    ROOT / "graft/interop/harness.py": "lm_eval",
    ROOT / "graft/specs/strict_yaml.py": "yaml",
    ROOT / "graft/train/protection/callback.py": "transformers",
}  # a subclass needs its base; nothing imports them


def part_of(path: Path) -> str:
    """The name in the tables above; "graft" for the package's own __init__."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "cli":
        return "graft_cli"
    return parts[0] if parts[1] == "__init__" else parts[1]


def walk(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it lies in a function (or under TYPE_CHECKING) and so is not run on import."""
    for child in ast.iter_child_nodes(node):
        late = inside or isinstance(child, Function)
        late = late or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")
        yield child, late
        yield from walk(child, late)


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Dotted names that a file imports, and whether only when something is called."""
    for node, late in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((f"{node.module}.{alias.name}", late) for alias in node.names)


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_every_folder_has_its_place() -> None:
    placed = set().union(*LAYERS)
    assert placed == set(PACKAGES) == {part_of(path) for path in FILES} - {"graft"}
    assert len(FILES) > 50


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "graft":  # the public names, loaded when they are asked for
        assert all(
            late or name == "graft.version.__version__" for name, late in imports_of(path) if name.startswith("graft")
        )
        return
    home = "registry" if path.stem == "registry" else part
    # what a registry imports for the type checker alone may be its folder's
    names = (
        run_imports(ast.parse(path.read_text(encoding="utf-8"))) if home != part else (n for n, _ in imports_of(path))
    )
    level = next(i for i, layer in enumerate(LAYERS) if home in layer)
    allowed = set().union(*LAYERS[:level]) | {home, "registry"}
    for name in names:
        top, _, rest = name.partition(".")
        inner = rest.partition(".")[0] if top == "graft" else top
        inner = "registry" if "registry" in rest.split(".")[:-1] else inner
        if top == "graft" and rest:
            assert inner in allowed, f"imports {name}"
        if top == "graft_cli":
            assert part == "graft_cli", f"imports {name}"


def run_imports(node: ast.AST) -> Iterator[str]:
    """Names imported when a module is loaded or its functions run, so all but those for the type checker."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom):
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from run_imports(child)


def test_no_modules_import_each_other_in_a_circle() -> None:
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    imported = {
        module: {
            name if name in modules else name.rpartition(".")[0] for name in run_imports(ast.parse(path.read_text()))
        }
        for module, path in modules.items()
    }
    assert "graft.errors" in imported["graft.registry"]  # these are seen
    assert "graft.train.fine_tuning" in imported["cli.graft_cli.commands.train"]  # late ones too
    graphlib.TopologicalSorter(imported).prepare()


@pytest.mark.parametrize("part", sorted(PACKAGES))
def test_each_folder_imports_the_packages_of_the_table_and_no_others(part: str) -> None:
    found = {name.partition(".")[0] for path in FILES if part_of(path) == part for name, _ in imports_of(path)}
    assert found - set(sys.stdlib_module_names) - {"graft", "graft_cli"} == PACKAGES[part]


def test_plots_alone_import_matplotlib_and_know_nothing_of_the_page() -> None:
    plots, page = ROOT / "graft/report/plots", ROOT / "graft/report/page"
    drawing = {path for path in FILES for name, _ in imports_of(path) if name.startswith("matplotlib")}
    assert drawing
    assert all(plots in path.parents for path in drawing)
    assert any(name.startswith("graft.report.plots") for path in page.rglob("*.py") for name, _ in imports_of(path))
    assert not any(name.startswith("graft.report.page.") for path in plots.glob("*.py") for name, _ in imports_of(path))


def test_what_is_slow_to_import_is_imported_where_it_is_used() -> None:
    found = {(path, name) for path in FILES for name, late in imports_of(path) if not late}
    assert any(name.startswith("torch") for _, name in found)  # these are seen
    late = {(path, top) for path, name in found if (top := name.partition(".")[0]) in LATE}
    assert late == set(BASES.items())
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in BASES}
    assert not {name for _, name in found if name.startswith(tuple(modules))}
    of_commands = {name.partition(".")[0] for path, name in found if part_of(path) == "graft_cli"}
    assert of_commands - set(sys.stdlib_module_names) == {"click", "graft", "graft_cli"}
    eager = {name for path, name in found if part_of(path) == "graft_cli" and name.startswith("graft.")}
    assert "graft.version.__version__" in eager
    assert not [name for name in eager if not LIGHT.match(name)]


def test_what_commands_import_before_they_run_loads_nothing_slow() -> None:
    light = sorted({name.rpartition(".")[0] for path in FILES for name, _ in imports_of(path) if LIGHT.match(name)})
    code = f"import importlib, sys; [importlib.import_module(name) for name in {light}]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "graft.registry" in loaded.split()  # these are seen
    assert not {"torch", "numpy", *LATE} & set(loaded.split())


def test_no_module_is_a_drawer() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "util", "common", "helpers", "misc")]


def test_no_public_function_shares_its_name_with_a_module() -> None:
    modules = {path.stem for path in FILES} | {path.parent.name for path in FILES}
    functions = {
        node.name
        for path in FILES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, Function) and not node.name.startswith("_")
    }
    assert len(functions) > 50
    assert not set(graft.__all__) & modules
    assert functions & modules == set()


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 350
    for node, _ in walk(ast.parse(text)):
        if isinstance(node, Function) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 60, node.name


def test_every_error_stands_in_the_tree_that_is_drawn() -> None:
    from graft import errors

    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    drawn = re.findall(r"(?:── |^    )(\w+Error)", errors.__doc__ or "", re.MULTILINE)
    assert sorted(drawn) == sorted(kinds)
    assert all(issubclass(getattr(errors, name), errors.GraftError) for name in kinds)


def test_the_version_has_its_entry_in_the_changelog() -> None:
    changelog = ROOT / "CHANGELOG.md"
    if not changelog.is_file():
        pytest.skip("there is no CHANGELOG.md")
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", changelog.read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == graft.__version__


# words of our own that the field's have replaced (docs/glossary.md has these, docs/renames.md both)
RETIRED = frozenset(
    [
        "afar",
        "beaten",
        "bench",
        "centered",
        "companion",
        "companions",
        "consolidation",
        "course",
        "dealt",
        "deal",
        "drain",
        "families",
        "fitted",
        "foresee",
        "glimpse",
        "holding",
        "kinship",
        "lap",
        "lesson",
        "lessons",
        "lineup",
        "meeting",
        "meetings",
        "movements",
        "numbering",
        "peek",
        "piece",
        "pieces",
        "pour",
        "pouring",
        "prints",
        "published",
        "retention",
        "spot",
        "spots",
        "standing",
        "stretch",
        "stretches",
        "suite",
        "watched",
        "wording",
    ]
)


def words_of(name: str) -> set[str]:
    """The words of a name in snake or camel case, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def named_in(path: Path) -> Iterator[str]:
    """The module's name, and those of its classes, functions, arguments and options."""
    yield path.stem
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"--\w", node.value):
            yield node.value


def test_no_name_holds_a_retired_word() -> None:
    assert words_of("RetentionBench") | words_of("line_up_pieces") == {"retention", "bench", "line", "up", "pieces"}
    names = {(str(path.relative_to(ROOT)), name) for path in FILES for name in named_in(path)}
    assert ("graft/patch/mask.py", "Mask") in names  # these are seen
    assert not sorted((path, name) for path, name in names if words_of(name) & RETIRED)
