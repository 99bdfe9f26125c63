"""`make bench` and `make bench-gpu`: measure, and write artifacts/benchmarks.md.

`python -m tests.benchmarks NAME...` measures these sections alone; the others stay in the file as they are.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import transformers

from tests.benchmarks.sections import SECTIONS, Section

OUT = Path("artifacts/benchmarks.md")
HEAD = """\
# Benchmarks

Written by `make bench`, and by `make bench-gpu` where there is a GPU. Ratios are to the named baseline in the same run.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each section and put every row into the file as soon as it is there."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(section.name for section in SECTIONS))
    parser.add_argument("--gpu", action="store_true", help="the sections that run on a GPU, on it")
    chosen = parser.parse_args(arguments)
    if chosen.gpu and not torch.cuda.is_available():
        parser.exit(1, "there is no CUDA GPU here: `make bench` measures on the CPU\n")
    possible = {section.name: section for section in SECTIONS if section.on_gpu or not chosen.gpu}
    if unknown := [name for name in chosen.names if name not in possible]:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(possible)}")
    for name in chosen.names or possible:
        for title, text in run_section(possible[name], gpu=chosen.gpu):
            put_section(OUT, title, text)
        print(f"## {title}\n\n{text}")


def run_section(section: Section, *, gpu: bool = False) -> Iterator[tuple[str, str]]:
    """The heading and the text of a section, anew with each row: intro, hardware, table; the last text is whole."""
    title = f"{section.title}, on {torch.cuda.get_device_name()}" if gpu else section.title
    start, rows = f"{section.intro}\n\n{_about(gpu=gpu)}", []
    for row in section.measure(**({"device": "cuda"} if gpu else {})):
        rows.append(row)
        yield title, f"{start}\n\n{format_table(rows)}\n\n*Not finished.*"
    yield title, f"{start}\n\n{format_table(rows)}"


def put_section(path: Path, title: str, text: str) -> None:
    """Put a section into the file: in the place of an earlier one of this title, else where the table has it."""
    found = _read_sections(path) | {title: text}
    order = [section.title for section in SECTIONS]
    places = {
        title: next((i for i, start in enumerate(order) if title.startswith(start)), len(order)) for title in found
    }
    parts = [f"## {title}\n\n{found[title].strip()}\n" for title in sorted(found, key=places.__getitem__)]
    path.write_text("\n".join([HEAD, *parts]), encoding="utf-8")


def format_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as Markdown; a column that a row lacks stays empty there."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_show(row.get(column, "")) for column in columns] for row in rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def _read_sections(path: Path) -> dict[str, str]:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _about(*, gpu: bool) -> str:
    where = f"{torch.cuda.get_device_name()}, " if gpu else ""
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    where += f"{len(os.sched_getaffinity(0))} CPU core(s) of {os.cpu_count()} ({processor})"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"*{where}, {versions}; {datetime.datetime.now(datetime.UTC).date()}*"


def _show(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
