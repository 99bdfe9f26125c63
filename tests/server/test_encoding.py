"""Texts are turned into tokens once a head, off the model's thread; their characters and tokens are bounded before."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.server import classification
from graft.server.classification import Classifier, Question
from graft.server.encoding import HeadEncoder, encode_questions
from graft.server.opening import open_service
from graft.server.resident import Resident
from graft.tasks.batches import Texts
from graft.tasks.heads.similarity import SimilarityHead
from tests.server.client import Client, running
from tests.server.conftest import SMALL, TASK, with_task
from tests.server.test_classification import PAIRS, heads, open_with, words  # noqa: F401

SHORT, LONG = ("the film was good",), ("good film the was a " * 40,)


@pytest.fixture(scope="module")
def similar(shelf: Path, patches: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Resident:
    """A skill that reads one text, and one whose label texts hold the second of a pair."""
    folder = tmp_path_factory.mktemp("similar")
    for name, task in {"one": TASK, "pairs": PAIRS}.items():
        save_patch(with_task(load_patch(patches["moods"]), task), folder / f"{name}.safetensors")
    return open_with(shelf / "base", folder / "one.safetensors", folder / "pairs.safetensors")


def encode(resident: Resident, name: str, texts: Texts) -> Question:
    """A question as the thread of requests encodes it."""
    asked, tokenizer = [Question(texts, (name,), name)], copy.deepcopy(resident.head.tokenizer)
    own = {name: resident.head_of(name)}
    (encoded,) = encode_questions(tokenizer, asked, own, lambda skills, task: False, resident.limits)
    return encoded


def rows_of(resident: Resident, name: str, texts: Texts) -> list[list[int]]:
    encoding = encode(resident, name, texts).encoding
    assert encoding is not None
    return [row.ids for row in encoding.rows]


@pytest.mark.parametrize("kind", ["similar", "words", "heads"])
@pytest.mark.parametrize("texts", [SHORT, LONG], ids=["short", "cut"])
def test_a_text_is_encoded_as_its_head_reads_it(kind: str, texts: Texts, request: pytest.FixtureRequest) -> None:
    resident: Resident = request.getfixturevalue(kind)
    head = resident.head_of("one")
    (ids,) = rows_of(resident, "one", texts)
    assert ids == head.encode([texts])[0].ids
    assert len(ids) <= head.limit


@pytest.mark.parametrize("second", ["the soup", "the soup " * 40], ids=["short", "cut"])
def test_the_second_of_a_pair_is_read_once_a_label(similar: Resident, second: str) -> None:
    head = similar.head_of("pairs")
    assert isinstance(head, SimilarityHead)
    read = [SHORT, *head.label_texts_for(second)]
    assert rows_of(similar, "pairs", (*SHORT, second)) == [row.ids for row in head.encode(read)]
    assert HeadEncoder(head, head.tokenizer).count_characters((*SHORT, second)) == sum(len(text) for (text,) in read)


@pytest.mark.parametrize(
    ("kind", "name"), [("similar", "one"), ("similar", "pairs"), ("words", "one"), ("heads", "one")]
)
def test_the_model_uses_no_tokenizer_for_what_is_encoded(
    kind: str, name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident: Resident = request.getfixturevalue(kind)
    texts = (*SHORT, "the soup") if name == "pairs" else SHORT
    asked = Question(texts, (name,), name)
    (expected,), encoded = Classifier(resident).answer([asked]), encode(resident, name, texts)
    monkeypatch.setattr("graft.tasks.batches.run_tokenizer", lambda *_, **__: pytest.fail("it was asked"))
    monkeypatch.setattr("graft.tasks.prompt.run_tokenizer", lambda *_, **__: pytest.fail("it was asked"))
    (answer,) = Classifier(resident).answer([encoded])
    assert answer.logits == pytest.approx(expected.logits, abs=1e-6)


def test_what_another_head_encoded_is_not_taken(similar: Resident) -> None:
    """As where a skill was removed, and another has its name since."""
    encoding = encode(similar, "pairs", (*SHORT, "the soup")).encoding
    asked = Question(SHORT, ("one",), "one")
    expected, answer = Classifier(similar).answer([asked, dataclasses.replace(asked, encoding=encoding)])
    assert answer.logits == pytest.approx(expected.logits, abs=1e-6)


def test_embedded_label_texts_have_so_much_room_and_are_embedded_once_a_batch(
    similar: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for those of one set of skills, where questions of two take turns."""
    asked = [Question(SHORT, (name,), "one") for name in ("one", "pairs", "one", "pairs")]
    expected = Classifier(similar).answer(asked)
    classifier, embedded = Classifier(similar), []
    embed_rows = classification.embed_rows
    monkeypatch.setattr(classification, "MOST_BYTES", 2 * 16 * 4)  # two labels, 16 wide
    monkeypatch.setattr(classification, "embed_rows", lambda *given: (embedded.append(given), embed_rows(*given))[1])
    answers = classifier.answer(asked)
    assert [answer.logits.tolist() for answer in answers] == [answer.logits.tolist() for answer in expected]
    assert len(embedded) == 3  # the texts, and the label texts twice
    assert [classifier.keeps((name,), "one") for name in ("one", "pairs")] == [False, True]


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The thread of each call of a tokenizer with its first texts."""
    from graft.tasks import batches

    calls: list[tuple[str, Any]] = []
    run = batches.run_tokenizer

    def note(tokenizer: Any, *texts: Any, **options: Any) -> Any:
        calls.append((threading.current_thread().name, texts[0]))
        return run(tokenizer, *texts, **options)

    monkeypatch.setattr(batches, "run_tokenizer", note)
    return calls


@pytest.fixture
def narrow(shelf: Path, patches: dict[str, Path]) -> Iterator[Client]:
    """Three skills, of which two read labels, by 200 characters or 40 tokens."""
    limits = dataclasses.replace(SMALL, characters=200, tokens=40)
    with running(open_service(str(shelf / "base"), patches, limits=limits, on_overlap="last")) as client:
        yield client


def test_a_text_is_encoded_once_however_often_it_is_asked_for(narrow: Client, tokenized: list[Any]) -> None:
    text = "the film was good " * 10
    narrow.refusal("/classify", texts=[text], skills=["moods"] * 32)
    assert len(tokenized) == 2  # the text, and the task's label texts
    tokenized.clear()
    assert narrow.post("/classify", texts=["good"] * 3, skills=["moods"] * 4)["results"]
    assert len(tokenized) == 2
    assert all(thread.startswith("reader") for thread, _ in tokenized)


def test_too_many_characters_are_refused_before_they_are_encoded(narrow: Client, tokenized: list[Any]) -> None:
    status, message = narrow.refusal("/classify", texts=["good " * 30], skills=["moods", "few"])
    line = "319 characters, counted once for each head that reads them, are more than 200 in one request"
    assert (status, message) == (400, line)
    assert not tokenized


def test_label_texts_that_skills_have_yet_to_embed_count(narrow: Client) -> None:
    sets = ["moods", "few", "moods+few", "few+moods", "moods+noise"]
    status, message = narrow.refusal("/classify", texts=["good"], skills=sets)
    assert (status, message) == (400, "47 tokens, 32 of them of label texts, are more than 40 in one request")
    for one in sets:
        assert narrow.post("/classify", texts=["good"] * 12, skill=one)["results"]  # 36 tokens, and a new set's labels
    assert narrow.post("/classify", texts=["good"], skills=sets)["results"]


def test_a_request_of_pairs_is_bounded(shelf: Path, patches: dict[str, Path], tmp_path: Path) -> None:
    save_patch(with_task(load_patch(patches["moods"]), PAIRS), tmp_path / "pairs.safetensors")
    service = open_service(str(shelf / "base"), {"pairs": tmp_path / "pairs.safetensors"}, limits=SMALL)
    pair = ["good", "the " * 28]  # 3 tokens, and twice 31 with a word for each label
    with running(service) as client:
        assert client.post("/classify", texts=[pair] * 7, skill="pairs")["results"]
        status, message = client.refusal("/classify", texts=[pair] * 8, skill="pairs")
        assert (status, message) == (400, "520 tokens are more than 500 in one request")
        status, message = client.refusal("/classify", texts=["good"], skill="pairs")
        assert (status, message) == (400, "skill 'pairs' reads a pair of texts, and was given 1")


def test_the_labels_of_a_long_second_text_are_not_even_written(
    shelf: Path, patches: dict[str, Path], tmp_path: Path, tokenized: list[Any]
) -> None:
    save_patch(with_task(load_patch(patches["moods"]), PAIRS), tmp_path / "pairs.safetensors")
    limits = dataclasses.replace(SMALL, characters=3000)
    service = open_service(str(shelf / "base"), {"pairs": tmp_path / "pairs.safetensors"}, limits=limits)
    with running(service) as client:
        tokenized.clear()
        status, message = client.refusal("/classify", texts=[["good", "x" * 1500]], skill="pairs")
        assert (status, "3,013 characters" in message) == (400, True)
        assert not tokenized
