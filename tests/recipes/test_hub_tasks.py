"""The recipes' tasks, read from a Hub that has the columns and labels which the datasets' cards show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graft.tasks.examples import Example
from graft.tasks.task import Task

TASKS = sorted((Path(__file__).parents[2] / "recipes" / "tasks").glob("*.yaml"))
Rows = list[dict[str, Any]]


def labeled(n: int, text: str = "text", label: str = "label", **more: Any) -> Rows:
    """Rows of a dataset whose labels are positions."""
    return [{text: f"text {position}", label: position, **more} for position in range(n)]


def pairs(n: int, first: str, second: str) -> Rows:
    return [{first: "one", second: f"text {position}", "label": position} for position in range(n)]


ARC = [
    {"id": "a", "question": "text 2", "choices": {"text": list("wxyz"), "label": list("ABCD")}, "answerKey": "C"},
    {"id": "b", "question": "text 1", "choices": {"text": list("wxy"), "label": list("123")}, "answerKey": "2"},
]
TREC = ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]
PUBMED: dict[str, Any] = {"question": "why?", "context": {"contexts": ["one", "two"], "labels": ["A", "B"]}}
ON_THE_HUB: dict[str, Rows] = {
    "fancyzhx/ag_news": labeled(4),
    "allenai/ai2_arc": ARC,
    "SetFit/CR": labeled(2, label_text="positive"),
    "qiaojin/PubMedQA": [PUBMED | {"final_decision": answer} for answer in ("yes", "no", "maybe")],
    "Salesforce/wikitext": [{"text": ""}, {"text": " = A heading = \n"}, {"text": " A paragraph . \n"}],
    "openlifescienceai/medmcqa": [
        {"question": f"text {i}", "opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": i} for i in range(4)
    ],
    "jxm/mpqa": labeled(2, text="sentence"),
    "nyu-mll/glue": pairs(2, "sentence1", "sentence2"),
    "allenai/scicite": labeled(3, text="string"),
    "ucirvine/sms_spam": labeled(2, text="sms"),
    "stanfordnlp/snli": [*pairs(3, "premise", "hypothesis"), {"premise": "a", "hypothesis": "b", "label": -1}],
    "nyu-mll/multi_nli": pairs(3, "premise", "hypothesis"),
    "pietrolesci/breaking_nli": pairs(3, "sentence1", "sentence2"),
    "SetFit/sst2": labeled(2, label_text="positive"),
    "fancyzhx/yelp_polarity": labeled(2),
    "pig4431/AmazonPolarity_train25k_test5k_valid5k": labeled(2),
    "SetFit/subj": labeled(2),
    "SetFit/TREC-QC": [
        {"text": f"text {i}", "label": 7, "label_coarse": 0, "label_coarse_original": name}
        for i, name in enumerate(TREC)
    ],
    "clinc/clinc_oos": labeled(151, label="intent"),
    "openai/gsm8k": [{"question": "1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}],
    "snips_slots": [{"prompt": "play jazz", "completion": "PlayMusic | genre: jazz"}],  # of a mirror alone
}
OUT_OF_SCOPE = 42  # of CLINC's 151 labels
MOVED = {"scicite": [1, 0, 2], "subj": [1, 0]}  # where a dataset has its labels in another order than the task


def read(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Task, list[str]]:
    """A task that asks a Hub of the rows above, and the splits that it asked for."""
    import datasets

    asked = []

    def load(path: str, name: str | None, *, split: str, revision: str | None) -> datasets.Dataset:
        asked.append(split)
        return datasets.Dataset.from_list(ON_THE_HUB[path])

    monkeypatch.delenv("GRAFT_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return Task.load(path, ("shots=1",)), asked


def position_of(example: Example) -> int:
    """The label that the dataset gives this example, which its text tells."""
    return int(example.texts[-1].rpartition(" ")[2])


@pytest.mark.parametrize("path", TASKS, ids=[path.stem for path in TASKS])
def test_every_task_reads_what_the_hub_has(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, asked = read(path, monkeypatch)
    examples = task.test_examples()
    assert task.train_examples()
    assert task.validation_examples()
    assert len(set(asked)) == 3  # no split is read as another
    if not task.spec.head.entry.has_labels:
        assert all(text.strip() for example in examples for text in example.texts)
    elif task.spec.choices is not None:
        assert [example.label for example in examples] == [position_of(example) for example in examples]
    elif path.stem == "pubmedqa":
        assert [(example.texts, example.label) for example in examples] == [(("why?", "one two"), i) for i in range(3)]
    elif path.stem != "clinc150":
        moved = MOVED.get(path.stem, list(range(9)))
        assert [example.label for example in examples] == [moved[position_of(example)] for example in examples]
        assert {example.label for example in examples} == set(range(len(task.spec.labels)))
    for name in task.spec.ood:
        assert task.ood_examples(name)


def test_clinc_s_intents_are_found_by_name_and_what_is_outside_them_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (path,) = (path for path in TASKS if path.stem == "clinc150")
    task, _ = read(path, monkeypatch)
    names = task.spec.data.test.labels  # type: ignore[union-attr]
    assert names is not None
    assert sorted({*names} - {"oos"}) == sorted(task.spec.labels)
    examples = task.test_examples()
    assert len(examples) == 150
    assert all(task.spec.labels[example.label] == names[position_of(example)] for example in examples)
    outside = [example for example in task.ood_examples("clinc150_oos") if example.label == -1]
    assert [position_of(example) for example in outside] == [OUT_OF_SCOPE]
