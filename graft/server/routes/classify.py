"""/classify: the probabilities of a task's labels, for texts that several skills read beside each other."""

from __future__ import annotations

from typing import Any

import torch

from graft.server.classification import Question
from graft.server.forms import ClassifyForm, Text
from graft.server.jobs import ClassifyJob
from graft.server.refusal import Refusal
from graft.server.resident import Names
from graft.server.routes.body import read_body
from graft.server.routes.embeddings import check_count
from graft.server.service import Service


async def classify(service: Service, request: Any) -> dict[str, Any]:
    """Label texts with each of the skills that are named."""
    form = await read_body(ClassifyForm, request, service.limits.body_bytes)
    check_count(len(form.texts) * len(form.wanted), service)
    wanted = [(name, service.resident.find(name)) for name in form.wanted]
    tasks = [_task_of(service, form, skills) for _, skills in wanted]
    questions = [
        Question(_texts(text), skills, task)
        for (_, skills), task in zip(wanted, tasks, strict=True)
        for text in form.texts
    ]
    logits = await service.run(ClassifyJob(questions=questions), request)
    n = len(form.texts)
    results = [
        _write(service, name, skills, task, torch.stack(logits[i * n : i * n + n]))
        for i, ((name, skills), task) in enumerate(zip(wanted, tasks, strict=True))
    ]
    return {"results": results}


def _task_of(service: Service, form: ClassifyForm, skills: Names) -> str:
    name = form.task or (skills[0] if skills else None)
    if name is None:
        raise Refusal(422, "the base has no labels of its own: name the skill whose labels are meant as task")
    service.resident.head_of(name)
    return name


def _write(service: Service, name: str, skills: Names, task: str, logits: torch.Tensor) -> dict[str, Any]:
    """Write (n, n_labels) logits as probabilities, calibrated where the task's own skill alone reads them."""
    entry = service.resident.skills.get(task)
    if entry is None or entry.task is None:
        raise Refusal(404, f"skill {task!r} is gone")
    temperature = entry.temperature if skills == (task,) else None
    probabilities = (logits.double() / (temperature or 1.0)).softmax(-1)
    confidence, best = probabilities.max(-1)
    labels = list(entry.task.labels)
    return {
        "skill": name,
        "task": task,
        "labels": labels,
        "calibration": "none" if temperature is None else "temperature",
        "temperature": temperature,
        "predictions": [
            {"label": labels[int(i)], "confidence": float(p), "probabilities": row.tolist()}
            for i, p, row in zip(best, confidence, probabilities, strict=True)
        ],
    }


def _texts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text
