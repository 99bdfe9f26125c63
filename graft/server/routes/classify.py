"""/classify: the probabilities of a task's labels, for texts that several skills read beside each other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from graft.server.classification import Answer, Question, require_readable
from graft.server.encoding import encode_questions
from graft.server.forms import ClassifyForm, Text
from graft.server.jobs import ClassifyJob
from graft.server.refusal import Refusal
from graft.server.resident import AUTO, MOST_COMPOSED, Names
from graft.server.routes.body import read_body
from graft.server.routes.choice import choose_skills, name_of
from graft.server.routes.embeddings import check_count
from graft.server.service import Service


@dataclass(frozen=True)
class Reading:
    """How one text is read.

    Attributes:
        texts: one, or a pair.
        skills: what it is read with.
        task: the skill whose labels are asked for; None where the router found no skill that has any.
    """

    texts: tuple[str, ...]
    skills: Names
    task: str | None


async def label_texts(service: Service, request: Any) -> dict[str, Any]:
    """Label texts with each of the skills that are named."""
    form = await read_body(ClassifyForm, request, service)
    check_count(len(form.texts) * len(form.wanted), service)
    columns, questions = await _ask(service, request, form)
    while not all(service.resident.offers(name) for reading in columns.get(AUTO, ()) for name in reading.skills):
        columns, questions = await _ask(service, request, form)  # a skill that the router chose leaves since
    answers = iter(await service.run(ClassifyJob(questions=questions), request) if questions else ())
    results = []
    for name in form.wanted:
        found = [_label(item, None if item.task is None else next(answers)) for item in columns[name]]
        results.append(_gather(name, found))
    return {"results": results}


async def _ask(service: Service, request: Any, form: ClassifyForm) -> tuple[dict[str, list[Reading]], list[Question]]:
    """Return how every text is read with each of the skills that are named, and the questions in it, encoded."""
    columns = {name: await _read(service, request, form, name) for name in dict.fromkeys(form.wanted)}
    questions = [
        Question(reading.texts, reading.skills, reading.task)
        for name in form.wanted
        for reading in columns[name]
        if reading.task is not None
    ]
    _check_compositions({question.skills for question in questions if len(question.skills) > 1})
    heads = {question.task: require_readable(service.resident, question) for question in questions}
    is_kept, limits = service.thread.keeps_labels, service.limits
    return columns, await service.read(encode_questions, questions, heads, is_kept, limits)


def _check_compositions(composed: Collection[Names]) -> None:
    """Refuse more compositions of skills than are kept prepared: each takes time and memory, however few its texts."""
    if len(composed) > MOST_COMPOSED:
        raise Refusal(400, f"{len(composed)} compositions of skills in one request are more than {MOST_COMPOSED}")


async def _read(service: Service, request: Any, form: ClassifyForm, name: str) -> list[Reading]:
    """Return how every text is read with one of the skills that are named."""
    texts = [_texts(text) for text in form.texts]
    chosen = await choose_skills(service, request, name, ["\n".join(text) for text in texts])
    return [
        Reading(text, skills, _task_of(service, form, skills, is_routed=name == AUTO))
        for text, skills in zip(texts, chosen, strict=True)
    ]


def _task_of(service: Service, form: ClassifyForm, skills: Names, *, is_routed: bool) -> str | None:
    if form.task is None and is_routed:
        chosen = service.resident.skills.get(skills[0]) if skills else None
        return None if chosen is None or chosen.task is None else chosen.name
    name = skills[0] if form.task is None and skills else form.task
    if name is None:
        raise Refusal(422, "the base has no labels of its own: name the skill whose labels are meant as task")
    service.resident.head_of(name)
    return name


def _label(reading: Reading, answer: Answer | None) -> dict[str, Any]:
    """Write logits as probabilities, calibrated where the task's own skill alone reads them."""
    of_row = {"skill": name_of(reading.skills), "task": reading.task}
    if answer is None:
        none = dict.fromkeys(("temperature", "label", "confidence"))
        return {**of_row, "labels": [], "calibration": "none", **none, "cut": False}
    entry = answer.skill
    assert entry is not None  # a head read the labels
    assert entry.task is not None
    temperature = entry.temperature if reading.skills == (reading.task,) else None
    probabilities = (answer.logits.double() / (temperature or 1.0)).softmax(-1)
    best = int(probabilities.argmax())
    return {
        **of_row,
        "labels": list(entry.task.labels),
        "calibration": "none" if temperature is None else "temperature",
        "temperature": temperature,
        "label": entry.task.labels[best],
        "confidence": float(probabilities[best]),
        "probabilities": probabilities.tolist(),
        "cut": answer.is_cut,
    }


_OF_ALL = ("task", "labels", "calibration", "temperature")


def _gather(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Write once what all texts have in common, unless the router chose a skill for each."""
    if name == AUTO:
        return {"skill": name, "predictions": found}
    shared = {key: found[0][key] for key in _OF_ALL}
    own = [{key: value for key, value in item.items() if key not in (*_OF_ALL, "skill")} for item in found]
    return {"skill": name, **shared, "predictions": own}


def _texts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text
