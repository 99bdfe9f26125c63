"""Measure the shape of the code: `python -m tests.shape [ROOT]` prints a Markdown table of its sizes.

The counting rules, so that numbers of two commits (or of two projects) can be set side by side:

- a file counts when it holds more than one line; an `__init__.py` that is a docstring alone does not;
- a function is as long as from its `def` to its last line, docstring and nested functions included;
- a function is public when its name has no leading underscore, wherever it is defined;
- a comment is a `#` token, on its own line or behind code.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

SOURCES, TESTS = ("graft", "cli"), ("tests",)
SMALL = 60  # lines below which a module with a single importer may be better off inside it
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One file of source.

    Attributes:
        name: dotted, as it is imported.
        n_lines: of the file.
        lengths: lines of each function.
        documented: for each public function, whether it has a docstring.
        n_comments: comments in the file.
        mentions: dotted names that the file imports, or names as "module:attribute" to be imported later.
    """

    name: str
    n_lines: int
    lengths: list[int] = field(default_factory=list)
    documented: list[bool] = field(default_factory=list)
    n_comments: int = 0
    mentions: set[str] = field(default_factory=set)


def read_modules(root: Path, folders: tuple[str, ...]) -> list[Module]:
    """Read every module of more than one line below the folders of a checkout."""
    paths = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    texts = ((path, path.read_text(encoding="utf-8")) for path in paths)
    return [measure(name_of(path.relative_to(root)), text) for path, text in texts if len(text.splitlines()) > 1]


def name_of(path: Path) -> str:
    """Return a file's dotted name; cli/ is a folder of packages, the others are packages themselves."""
    parts = path.with_suffix("").parts
    return ".".join(part for part in parts[parts[0] == "cli" :] if part != "__init__")


def measure(name: str, text: str) -> Module:
    """Count what one module holds."""
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return Module(
        name,
        n_lines=len(text.splitlines()),
        lengths=[(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions],
        documented=[ast.get_docstring(node) is not None for node in functions if not node.name.startswith("_")],
        n_comments=sum(token.type == tokenize.COMMENT for token in tokens),
        mentions=set(find_mentions(tree)),
    )


def find_mentions(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names that a module may import, in statements and in the strings of its tables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.partition(":")[0]  # "graft.patch.mask:Mask", a row of a registry


def count_importers(modules: list[Module]) -> dict[str, int]:
    """Return, for each module, how many of the others import it."""
    return {one.name: sum(one.name in other.mentions - {other.name} for other in modules) for one in modules}


def percentile(values: list[int], share: float) -> int:
    """Return the value below which a share of the values lie, a value of the list itself."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def share_of(part: float, total: float) -> float:
    """Return a quotient; nothing of nothing is 0."""
    return part / total if total else 0.0


def measure_shape(root: Path) -> dict[str, str]:
    """Measure a checkout: what is measured -> its value as text."""
    modules, tests = read_modules(root, SOURCES), read_modules(root, TESTS)
    lengths = [length for module in modules for length in module.lengths] or [0]
    documented = [one for module in modules for one in module.documented]
    sizes = [module.n_lines for module in modules] or [0]
    counts = count_importers(modules)
    importers = list(counts.values()) or [0]
    single = [module for module in modules if counts[module.name] == 1]
    n_lines, n_comments = sum(sizes), sum(module.n_comments for module in modules)
    return {
        "files / lines": f"{len(modules)} / {n_lines:,}",
        "function median / p90 / max": f"{median(lengths):.0f} / {percentile(lengths, 0.9)} / {max(lengths)}",
        "public functions documented": f"{share_of(sum(documented), len(documented)):.0%}",
        "comments per 100 lines": f"{100 * share_of(n_comments, n_lines):.1f}",
        "file median / max": f"{median(sizes):.0f} / {max(sizes)}",
        "importers of a module, median / max": f"{median(importers):.0f} / {max(importers)}",
        "modules with one importer": f"{len(single)}",
        f"of these under {SMALL} lines": f"{sum(module.n_lines < SMALL for module in single)}",
        "tests : source, lines": f"{share_of(sum(module.n_lines for module in tests), n_lines):.2f}",
    }


def write_table(shape: dict[str, str]) -> str:
    """Write measures as a Markdown table."""
    rows = [f"| {name} | {value} |" for name, value in shape.items()]
    return "\n".join([f"| {' + '.join(f'{folder}/' for folder in SOURCES)} | |", "|---|---|", *rows])


if __name__ == "__main__":
    print(write_table(measure_shape(Path(sys.argv[1] if len(sys.argv) > 1 else "."))))
