"""Diagnosis of the checkpoint, made before any data were touched."""

from __future__ import annotations

from graft.report.page.document import section
from graft.report.page.markup import Html, Part, Table, bullets, element, folded
from graft.report.page.run_page import RunPage


def build_section(page: RunPage) -> Html | None:
    """Say what was to be expected of the checkpoint before any data were touched."""
    run = page.run
    said: dict[tuple[str, ...], list[int]] = {}
    for seed in run.seeds:
        if seed.diagnosis and seed.diagnosis.text:
            said.setdefault(seed.diagnosis.text, []).append(seed.seed)
    if not said:
        return None
    parts: list[Part] = []
    for sentences, seeds in said.items():
        if len(said) > 1:
            parts.append(element("p", element("b", f"Seed {', '.join(map(str, seeds))}")))
        parts.append(bullets(sentences))
    numbers = [seed.diagnosis.numbers if seed.diagnosis else {} for seed in run.seeds]
    keys = [key for key in numbers[0] if all(key in row for row in numbers)]
    rows = [[key.replace("_", " "), *(f"{row[key]:,.4g}" for row in numbers)] for key in keys]
    if rows:
        head = ["number", *(f"seed {seed.seed}" for seed in run.seeds)]
        parts.append(folded("The numbers behind it", Table(head, rows).render(f"{run.name}: numbers of the diagnosis")))
    return section(None, "Does this checkpoint localize?", *parts)
