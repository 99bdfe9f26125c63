"""Three toy tasks of one base, for recipes over several."""

from __future__ import annotations

from pathlib import Path

from tests.models import FILMS, MEALS, toy_rows, write_rows, write_task

MOODS = ["bad sorry", "good happy"]


def write_toy_tasks(folder: Path, **texts: list[str]) -> None:
    """The moods of films and of meals and the length of sentences, each in a folder of its name.

    Args:
        folder: where to.
        texts: task -> the text of each label, where it is another.
    """
    texts = {"films": MOODS, "meals": MOODS, "long": ["one", "the and a is"]} | texts
    for name, things in (("films", FILMS), ("meals", MEALS), ("long", FILMS)):
        path = write_task(folder / name, name=name, ood={}, head={"kind": "similarity", "texts": texts[name]})
        for seed, split in enumerate(("train", "validation", "test"), start=20):
            rows = toy_rows(100, seed, things)
            if name == "long":
                rows = [row | {"label": int(len(row["text"].split()) > 6)} for row in rows]
            write_rows(path.parent / f"{split}.jsonl", rows)
