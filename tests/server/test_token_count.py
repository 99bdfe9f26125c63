"""Tokens are counted as heads read them, before the model's thread is asked."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.server.resident import Resident
from graft.server.token_count import TokenCounter
from graft.tasks.batches import Texts
from tests.server.client import running
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


def count(resident: Resident, name: str, texts: Texts) -> int:
    return TokenCounter(copy.deepcopy(resident.head.tokenizer)).count(resident.head_of(name), texts)


@pytest.mark.parametrize("kind", ["similar", "words", "heads"])
@pytest.mark.parametrize("texts", [SHORT, LONG], ids=["short", "cut"])
def test_the_count_is_what_a_head_reads(kind: str, texts: Texts, request: pytest.FixtureRequest) -> None:
    resident: Resident = request.getfixturevalue(kind)
    head = resident.head_of("one")
    assert count(resident, "one", texts) == len(head.encode([texts])[0].ids) <= head.limit


@pytest.mark.parametrize("second", ["the soup", "the soup " * 40], ids=["short", "cut"])
def test_the_second_of_a_pair_counts_once_a_label(similar: Resident, second: str) -> None:
    head = similar.head_of("pairs")
    read = [SHORT, *head.label_texts_for(second)]  # type: ignore[attr-defined]
    assert len(read) == 3
    assert count(similar, "pairs", (*SHORT, second)) == sum(len(row.ids) for row in head.encode(read))


def test_a_request_of_pairs_is_bounded(shelf: Path, patches: dict[str, Path], tmp_path: Path) -> None:
    from graft.server.opening import open_service

    save_patch(with_task(load_patch(patches["moods"]), PAIRS), tmp_path / "pairs.safetensors")
    service = open_service(str(shelf / "base"), {"pairs": tmp_path / "pairs.safetensors"}, limits=SMALL)
    pair = ["good", "the " * 28]  # 3 tokens, and twice 31 with a word for each label
    with running(service) as client:
        assert client.post("/classify", texts=[pair] * 7, skill="pairs")["results"]
        status, message = client.refusal("/classify", texts=[pair] * 8, skill="pairs")
        assert (status, message) == (400, "520 tokens are more than 500 in one request")
        status, message = client.refusal("/classify", texts=["good"], skill="pairs")
        assert (status, message) == (400, "skill 'pairs' reads a pair of texts, and was given 1")
