"""The head of a card: what the Hub's search and its pages read, as typed values of huggingface_hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.hub.base_model import TAG, BaseModel, Licence
from graft.hub.card_text import identifier, one_line
from graft.results.figures import TEST, SetFigures
from graft.tasks.registry import HEADS

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

LIBRARY = "skillgraft"
SHOWN = ("accuracy", "ece")


def make_card_data(
    title: str,
    task: Mapping[str, Any],
    figures: Mapping[str, SetFigures],
    *,
    base: BaseModel | None,
    licence: Licence | None,
    datasets: Sequence[str],
) -> ModelCardData:
    """Make the typed head of a card.

    Args:
        title: of the patch; the model's name in the results.
        task: what the patch says of its task.
        figures: its results.
        base: None where the base is local: the card then names none, since a path means nothing elsewhere.
        licence: None where neither author nor base states one.
        datasets: Hub ids of the training data.
    """
    from huggingface_hub import ModelCardData

    kind = _kind_of(task)
    name = one_line(task.get("name") or "unnamed", 60)
    results = [result for of, item in figures.items() for result in _results(of, item, kind, name, datasets)]
    named = {"license_name": licence.name, "license_link": licence.link} if licence else {}
    related = {"base_model": base.id, "base_model_relation": "adapter"} if base else {}
    present: dict[str, Any] = {key: one_line(value) for key, value in {**named, **related}.items() if value}
    return ModelCardData(
        **present,
        license=one_line(licence.id) if licence else None,
        library_name=LIBRARY,  # else the Hub guesses one from the files
        pipeline_tag=kind,
        datasets=list(datasets) or None,
        tags=[tag for tag in (TAG, identifier(name)) if tag],
        model_name=one_line(title),
        eval_results=results or None,
    )


def _kind_of(task: Mapping[str, Any]) -> str | None:
    head = task.get("head")
    kind = str(head.get("kind")) if isinstance(head, Mapping) else ""
    return HEADS[kind].pipeline if kind in HEADS else None


def _results(of: str, figures: SetFigures, kind: str | None, task: str, datasets: Sequence[str]) -> list[EvalResult]:
    """Return accuracy and ECE of one set, each with n and its interval."""
    from huggingface_hub import EvalResult

    of_test = of == TEST
    name = task if of_test else one_line(of)
    return [
        EvalResult(
            task_type=kind or "other",
            dataset_type=datasets[0] if of_test and datasets else identifier(name) or "unnamed",
            dataset_name=f"{name}, held-out test split" if of_test else f"{name} (out of distribution)",
            dataset_split="test",
            metric_type=metric,
            metric_name={"accuracy": "Accuracy", "ece": "ECE, 15 equal-width bins"}[metric],
            metric_value=figures.numbers[metric],
            metric_args={"n": figures.n} | _ends(figures, metric),
        )
        for metric in SHOWN
        if metric in figures.numbers
    ]


def _ends(figures: SetFigures, metric: str) -> dict[str, list[float]]:
    return {"ci95": list(figures.intervals[metric])} if metric in figures.intervals else {}
