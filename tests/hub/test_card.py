"""The card: valid, true to the patch, and unable to carry anything but words."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from graft.hub.base_model import BaseModel, License
from graft.hub.card import CardFacts, compose_card
from graft.hub.card_text import identifier, json_block, one_line, prose
from graft.patch.provenance import BaseIdentity, Provenance
from graft.patch.summary import Outline, outline_of
from graft.results.figures import read_figures
from tests.checkpoints import make_patch, sample_tensors
from tests.hub.conftest import METRICS
from tests.hub.local_hub import card_errors

EVIL = (
    "<script>alert(1)</script>\n---\nlicense: other\n---\n# Owned | ![x](javascript:alert(1)) `\"'\u202e${title} "
    "[a](https://evil.example) www.evil.example <img src=x onerror=alert(1)> ``` \u2028 {{ 7*7 }} $usage"
)
BASE = BaseModel("bob/base", License("apache-2.0"), ("carol/other",))


def outline(**fields: Any) -> Outline:
    base = sample_tensors()
    changes = {"layers.0.w": {1: 2.0}, "layers.1.w": {2: 3.0, 5: 1.0}}
    identity = BaseIdentity(name="base", digest="0" * 64, n_parameters=128)
    task = {"name": "moods", "labels": ["sad", "glad"], "head": {"kind": "similarity", "texts": ["a", "b"]}}
    plain = {"base": identity, "task": task, "metrics": METRICS, "method": {"method": "attribution", "points": 8}}
    provenance = Provenance(**(plain | fields))
    return outline_of(make_patch(base, changes, provenance=provenance), provenance)


def card_of(found: Outline, base: BaseModel | None = BASE, **fields: Any) -> str:
    facts = CardFacts("alice/moods", base, License("mit"), (), 4321, frozenset({"layers.png"}))
    return compose_card(found, dataclasses.replace(facts, **fields))


def test_the_head_is_what_the_hub_reads() -> None:
    text = card_of(outline(), datasets=("bob/reviews",))
    assert card_errors(text) == []
    data = ModelCard(text).data
    assert (data.base_model, data["base_model_relation"], data.license) == ("bob/base", "adapter", "mit")
    assert (data.library_name, data.pipeline_tag, data.datasets) == (
        "skillgraft",
        "text-classification",
        ["bob/reviews"],
    )
    assert data.tags == ["skill-patch", "moods"]
    found = {(item.dataset_name, item.metric_type): item for item in data.eval_results or []}
    test = found["moods, held-out test split", "accuracy"]
    assert (test.metric_value, test.metric_args) == (0.9, {"n": 80, "ci95": [0.85, 0.95]})
    assert found["moods, held-out test split", "ece"].metric_value == 0.04
    assert found["meals (out of distribution)", "ece"].metric_args == {"n": 40}
    assert len(found) == 4


def test_the_validation_of_the_local_hub_can_say_no() -> None:
    assert card_errors("---\nbase_model: /home/x/base\n---\n")
    assert card_errors("---\nlicense: mine\n---\n")
    assert card_errors("---\n a: [\n---\n")
    assert card_errors("---\nmodel-index: [{results: [{task: {}, dataset: {}, metrics: []}]}]\n---\n")


def test_the_body_says_what_how_and_where() -> None:
    text = card_of(outline())
    assert "3 weights (2.3438% of 128) of [bob/base](/bob/base)" in text
    assert "| test split | 80 | 0.900 [0.850, 0.950] | 0.040 [0.000, 0.080] | 0.030 |" in text
    assert "| meals (out of distribution) | 40 | 0.800 | 0.100 |  |" in text
    assert "gain on the test split: 0.80" in text
    assert "| layers.1 | 2 |" in text
    assert "![Entries by layer and module](layers.png)" in text
    assert '"points": 8' in text
    assert "- [carol/other](/carol/other)" in text
    assert "4,321 bytes" in text


def test_a_local_base_is_not_named_in_the_head() -> None:
    text = card_of(outline(), None)
    assert "base_model" not in text.partition("\n---\n")[0]
    assert "of base (a local checkpoint, which the author did not name on the Hub)" in text
    assert 'from_pretrained("base"' in text


def test_a_patch_without_task_or_figures_has_a_card_too() -> None:
    text = card_of(outline(task=None, metrics=None, method={}))
    assert card_errors(text) == []
    assert "The patch carries no measurements." in text
    assert ModelCard(text).data.eval_results is None


@pytest.mark.parametrize("evil", [EVIL, "---", "`" * 9, "\n\n# x", "a" * 100_000, "é ß 漢字 🙂", ""])
def test_foreign_words_stay_words(evil: str) -> None:
    nested = {evil or "x": {"kind": evil, "deep": [evil, {evil: 1}]}}
    plain = card_of(outline())
    text = card_of(
        outline(
            base=BaseIdentity(name=evil, digest=evil, n_parameters=128),
            task={"name": evil, "labels": [evil], "head": nested},
            method=nested,
            metrics=METRICS | {"ood": {evil: METRICS["ood"]["meals"]}},
            scope=evil,
            tool=evil,
        ),
        None,
    )
    assert card_errors(text) == []
    assert len(text) < 40_000
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(head)["license"] == "mit"
    assert not set("<>") & set(body)  # nor in a block of code
    words = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    assert not re.search(r"(javascript|https?):|www\.|\]\((?!layers.png\))", words)
    headings = [line for line in body.splitlines() if line.startswith("## ")]
    assert headings == [line for line in plain.splitlines() if line.startswith("## ")]
    assert sum(line.startswith("```") for line in body.splitlines()) == 6
    assert "\u202e" not in text
    assert "\u2028" not in text
    assert body.count("import graft\n") == 1  # what looks like a placeholder is not filled in


@given(st.text(max_size=60))
def test_prose_reads_back_as_the_words_and_begins_no_markup(text: str) -> None:
    written = prose(text)
    assert re.fullmatch(r"(?:[\w ,./-]|&#\d+;)*", written)
    assert html.unescape(written).replace(" ", "") == one_line(text).replace(" ", "")
    assert not re.search(r"(?i)(?:https?|javascript|data):|www\.", html.unescape(written))
    assert not re.search(r"(^|[\W_])_|_($|[\W_])", re.sub(r"&#\d+;", " ", written))


@given(st.dictionaries(st.text(max_size=9), st.text(max_size=30) | st.lists(st.text(max_size=9)), max_size=4))
def test_a_block_of_json_is_the_same_json_in_one_fence(value: dict[str, Any]) -> None:
    first, *lines, last = json_block(value).split("\n")
    assert (first, last) == ("```json", "```")
    assert json.loads("\n".join(lines)) == value
    assert not any(letter in line for line in lines for letter in "<>&`")


@given(st.text(max_size=80))
def test_an_identifier_is_plain(text: str) -> None:
    assert re.fullmatch(r"(?:[a-z0-9]+(?:-[a-z0-9]+)*)?-?", identifier(text))


@pytest.mark.parametrize(
    "metrics",
    [
        None,
        [],
        {"n": 10},
        {"n": "10", "accuracy": 1.0},
        {"n": True, "accuracy": 1.0},
        {"n": 10, "accuracy": "<b>"},
        {"n": 10, "accuracy": float("nan")},
        {"n": 10, "accuracy": True},
        {"n": -1, "accuracy": 1.0},
        {"ood": []},
        {"ood": {"x": 1}},
    ],
)
def test_figures_that_are_none_are_left_out(metrics: Any) -> None:
    assert not read_figures(metrics)
    assert len(read_figures(METRICS)) == 2


def test_what_lies_beside_is_shown() -> None:
    text = card_of(outline(), files=frozenset({"layers.png", "reliability.png", "recipe.json"}))
    assert "(reliability.png)" in text
    assert "The whole recipe is in [recipe.json](recipe.json)." in text
    bare = card_of(outline(), files=frozenset())
    assert not re.search(r"\.png|recipe", bare)


def test_a_stated_result_is_words_whatever_it_holds() -> None:
    facts = CardFacts("alice/moods", BASE, None, ())
    assert "Result: sha256" not in compose_card(outline(), facts)
    assert f"Result: sha256 {'ab' * 32}, check with" in compose_card(outline(result="ab" * 32), facts)
    evil = compose_card(outline(result=EVIL), facts)
    line = next(line for line in evil.splitlines() if line.startswith("Result: sha256"))
    assert "<script>" not in line
    assert '`"' not in line


def test_a_refit_says_that_its_values_were_fitted() -> None:
    record = {"teacher": "ab" * 32, "texts": {"n": 2000, "sha256": "cd" * 32}, "kept": {"epoch": 2, "kind": "mean"}}
    text = " ".join(card_of(outline(values="refit", refit=record)).split())
    assert "whose values are not those of the fine-tuned model but were fitted to its outputs on 2,000 texts" in text
    assert f"(sha256 of its tensors: {'ab' * 32})" in text
    assert "with the values that they have after" not in text
    assert "some fitted to a fine-tuned model's outputs" in " ".join(card_of(outline(values="mixed")).split())
    assert "with the values that they have after" in card_of(outline())


@pytest.mark.parametrize(
    "record",
    [
        {"teacher": EVIL, "texts": {"n": EVIL, "sha256": EVIL}, "kept": {"epoch": EVIL, "kind": EVIL}},
        {"teacher": ["a"], "texts": [1], "kept": 7},
        {"teacher": "ab", "texts": {"n": -1}, "kept": {"epoch": True, "kind": None}},
        {"texts": {"n": 10**400}, "kept": {"epoch": 1.5}},
    ],
)
def test_a_strangers_refit_is_left_out_where_it_is_none(record: dict[str, Any]) -> None:
    text = card_of(outline(values="refit", refit=record))
    assert card_errors(text) == []
    assert "fitted to its outputs on texts, for the task *moods*: a *refit*" in text
    assert "evil" not in text
    assert "evil" not in card_of(outline(values=EVIL, refit=record))
