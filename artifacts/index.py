"""Write artifacts/README.md, the index of what was measured: `make index`.

A line a recipe: the question is the first line of its YAML, the answer is put together from the figures that its run
left in results.json, so that no sentence here can grow stale. Figures are means over seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "artifacts" / "README.md"
REFERENCES = ("base", "tuned", "graft")  # rows of a run of several tasks that are not one model of them all
MADE_OF_OTHERS = {
    "overlap": "`graft overlap` of the patches that trec, sst2, sms_spam, subj, mpqa and topics left (three seeds "
    "each), and its map; the diagonal is one task over seeds",
    "rollback": "`examples/rollback.py`: sentiment brought back into an encoder that lost it to another task, by refit "
    "and by put-back values, beside random weights, magnitude and interpolation",
    "defaults": "`examples/defaults.py`: a TASK without a train block against AdamW on all weights, nine tasks, three "
    "seeds; a run with further seeds goes on from it",
    "precision": "`examples/precision.py`: a language model in bfloat16, tuned by AdamW at 2e-5 in bfloat16, with "
    "fp32 master weights, with fp32 products too, and without rounding at the end; three seeds",
    "overview": "`graft report` of the ten runs on single tasks: accuracy and ECE of the graft against its controls",
}
HEAD = """\
# What was measured

Written by `make index`; do not edit. `graft run recipes/NAME.yaml` makes each folder again; [LOG.md](LOG.md) says what
was tried and why. Answers are means over seeds on the test split, with intervals in each table.

| question | run | answer | minutes |
|---|---|---|---|
"""
TAIL = """
Not made by a recipe:

"""


def mean_of(figures: Mapping[str, Any], name: str) -> float | None:
    """Return a figure's mean over seeds; None where it was not measured."""
    found = figures.get(name)
    return found.get("mean") if isinstance(found, Mapping) else found


def show(value: float | None) -> str:
    """Write a share with three digits, as the tables do."""
    return "–" if value is None else f"{value:.3f}".replace("0.", ".", 1)


def list_rows(summary: Mapping[str, Any], names: Iterable[str], figure: str) -> str:
    """List one figure of several rows, those that there are."""
    return ", ".join(f"{name} {show(mean_of(summary[name], figure))}" for name in names if name in summary)


def answer_single(summary: Mapping[str, Any]) -> str:
    """Compare base, tuned model and the main graft, the first one of the table, with the random one."""
    names = [name for name in summary if name.startswith("graft (")]
    names.sort(key=lambda name: name != "graft (refit)")  # where there is a refit, it is the main graft
    accuracy = list_rows(summary, ("base", "tuned", names[0]), "accuracy")
    gain = list_rows(summary, dict.fromkeys((names[0], "graft (random)")), "recovered_gain")
    return f"accuracy: {accuracy}; gain recovered: {gain}"


def answer_multitask(summary: Mapping[str, Any]) -> str:
    """Compare the references with the best way to have all tasks in one model, as validation sees it."""
    ways = {name: row for name, row in summary.items() if mean_of(row, "validation_accuracy") is not None}
    best = max(ways, key=lambda name: mean_of(ways[name], "validation_accuracy") or 0.0)
    return f"mean accuracy: {list_rows(summary, (*REFERENCES, best), 'accuracy')} (best of {len(ways)} on validation)"


def answer_forgetting(summary: Mapping[str, Any], units: Mapping[str, str]) -> str:
    """Compare plain training with the point that is best on validation, by gain plus general change."""
    domain = summary.get("mean") or next(iter(summary.values()))
    points = {name: row.get("figures", row) for name, row in domain.items()}

    def on_validation(name: str) -> float:
        return sum(mean_of(points[name], f"validation_{key}") or 0.0 for key in ("gain", "general"))

    plain, best = next(iter(points)), max(points, key=on_validation)
    said = [
        f"{name} {mean_of(points[name], 'gain'):+.2f} / {mean_of(points[name], 'general'):+.2f}"
        for name in dict.fromkeys((plain, best))
    ]
    return f"gain / general change, in {units.get('general', 'points')}: {', '.join(said)} (best on validation)"


def answer_extraction(summary: Mapping[str, Any]) -> str:
    """Say what each method keeps in at most 1 MB, at the largest size of it that takes no more."""
    kept = {
        name.partition(",")[0]: mean_of(row, "recovered_gain")
        for name, row in summary.items()
        if name not in REFERENCES and (mean_of(row, "n_bytes") or 0) <= 1e6
    }
    gains = ", ".join(f"{method} {show(gain)}" for method, gain in kept.items())
    return f"accuracy: {list_rows(summary, REFERENCES, 'accuracy')}; gain kept in at most 1 MB: {gains}"


def answer_planted(summary: Mapping[str, Any]) -> str:
    """Say what each method finds of the planted entries, the mean over the ladder and its worst place."""
    found: dict[str, list[float]] = {}
    for name, row in summary.items():
        recall = mean_of(row, "recall")
        if recall is not None:
            found.setdefault(name.partition(",")[0], []).append(recall)
    said = (f"{name} {show(sum(values) / len(values))} ({show(min(values))})" for name, values in found.items())
    return f"recall of planted entries, mean over the ladder (worst): {', '.join(said)}"


def answer(results: Mapping[str, Any]) -> str:
    """Say in one line what a run found, whatever its kind."""
    summary = results["summary"]
    if results.get("kind") == "extraction":
        return answer_extraction(summary)
    if results.get("kind") == "planted":
        return answer_planted(summary)
    if any(name.startswith("graft (") for name in summary):
        return answer_single(summary)
    return answer_multitask(summary) if "tuned" in summary else answer_forgetting(summary, results.get("units", {}))


def write_row(recipe: Path) -> str:
    """Write the line of one recipe; one that left nothing here has no answer."""
    text = recipe.read_text(encoding="utf-8")
    question, minutes = text.partition("\n")[0].lstrip("# "), yaml.safe_load(text).get("minutes", "–")
    found = ROOT / "artifacts" / recipe.stem / "results.json"
    if not found.exists():
        return f"| {question} | [recipe](../recipes/{recipe.name}) | – | {minutes} |"
    results = json.loads(found.read_text(encoding="utf-8"))
    missed = f"; not as expected: {'; '.join(results['missed'])}" if results.get("missed") else ""
    links = f"[{recipe.stem}]({recipe.stem}/table.md), [recipe](../recipes/{recipe.name})"
    return f"| {question} | {links} | {answer(results)}{missed} | {minutes} |"


def write_index() -> str:
    """Write the whole index."""
    rows = [write_row(recipe) for recipe in sorted((ROOT / "recipes").glob("*.yaml"))]
    others = [f"- [{name}]({name}/): {how}" for name, how in MADE_OF_OTHERS.items()]
    return HEAD + "\n".join(rows) + "\n" + TAIL + "\n".join(others) + "\n"


if __name__ == "__main__":
    INDEX.write_text(write_index(), encoding="utf-8")
