"""Head of a card: the metadata that the Hub's search and pages read, as typed values of huggingface_hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.hub.base_model import TAG, BaseModel, License
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
    metrics: Mapping[str, SetFigures],
    *,
    base: BaseModel | None,
    licence: License | None,
    datasets: Sequence[str],
) -> ModelCardData:
    """Make the typed head of a card.

    Args:
        title: of the patch; the model's name in the results.
        task: description of the task in the patch.
        metrics: results of the patch, by set.
        base: None where it is local; the card then names none, since a path means nothing elsewhere.
        licence: None where neither author nor base states one.
        datasets: Hub ids of the training data.
    """
    from huggingface_hub import ModelCardData

    pipeline = _pipeline_of(task)
    name = one_line(task.get("name") or "unnamed", 60)
    results = [
        result for set_name, item in metrics.items() for result in _results(set_name, item, pipeline, name, datasets)
    ]
    license_details = {"license_name": licence.name, "license_link": licence.link} if licence else {}
    base_details = {"base_model": base.id, "base_model_relation": "adapter"} if base else {}
    present: dict[str, Any] = {
        key: one_line(value) for key, value in {**license_details, **base_details}.items() if value
    }
    return ModelCardData(
        **present,
        license=one_line(licence.id) if licence else None,
        library_name=LIBRARY,  # else the Hub guesses one from the files
        pipeline_tag=pipeline,
        datasets=list(datasets) or None,
        tags=[tag for tag in (TAG, identifier(name)) if tag],
        model_name=one_line(title),
        eval_results=results or None,
    )


def _pipeline_of(task: Mapping[str, Any]) -> str | None:
    head = task.get("head")
    kind = str(head.get("kind")) if isinstance(head, Mapping) else ""
    return HEADS[kind].pipeline if kind in HEADS else None


def _results(
    set_name: str, metrics: SetFigures, pipeline: str | None, task: str, datasets: Sequence[str]
) -> list[EvalResult]:
    """Return accuracy and ECE of one set, each with n and its interval."""
    from huggingface_hub import EvalResult

    is_test = set_name == TEST
    name = task if is_test else one_line(set_name)
    return [
        EvalResult(
            task_type=pipeline or "other",
            dataset_type=datasets[0] if is_test and datasets else identifier(name) or "unnamed",
            dataset_name=f"{name}, held-out test split" if is_test else f"{name} (out of distribution)",
            dataset_split="test",
            metric_type=metric,
            metric_name={"accuracy": "Accuracy", "ece": "ECE, 15 equal-width bins"}[metric],
            metric_value=metrics.numbers[metric],
            metric_args={"n": metrics.n} | _interval(metrics, metric),
        )
        for metric in SHOWN
        if metric in metrics.numbers
    ]


def _interval(metrics: SetFigures, metric: str) -> dict[str, list[float]]:
    return {"ci95": list(metrics.intervals[metric])} if metric in metrics.intervals else {}
