"""The router: planted clusters told apart, far texts refused, and nothing that depends on company or order."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from graft.errors import ConfigError, MismatchError
from graft.mixture.routing.learning import learn_reference
from graft.mixture.routing.reference import SkillReference
from graft.mixture.routing.router import Router
from tests.mixture.routing.planted import TOPICS, WIDTH, own_texts, plant


@pytest.fixture(scope="module")
def references() -> dict[str, SkillReference]:
    return {topic: learn_reference(plant, own_texts(topic, 80), own_texts(topic, 60, 80)) for topic in TOPICS}


@pytest.fixture
def router(references: dict[str, SkillReference]) -> Router:
    return Router(plant, references)


NEW = {topic: own_texts(topic, 200, 1000) for topic in TOPICS}
FAR = own_texts("nothing", 200)


def test_texts_go_to_their_skill_and_far_ones_to_none(router: Router) -> None:
    for topic, texts in NEW.items():
        chosen = router.choose(texts)
        assert set(chosen) <= {topic, None}
        assert chosen.count(topic) >= 0.88 * len(texts)  # 95 % but for the draw of texts
    assert router.choose(FAR) == [None] * len(FAR)


def test_a_skill_that_is_removed_gets_nothing_and_the_others_keep_their_scores(router: Router) -> None:
    assert router.choose(NEW["food"]).count("food") > 150  # it would be seen
    before = router.scores(NEW["bank"])[:, router.names.index("bank")]
    router.remove("food")
    assert router.choose(NEW["food"]) == [None] * 200
    assert torch.equal(router.scores(NEW["bank"])[:, router.names.index("bank")], before)


def test_what_is_left_out_of_a_choice_is_as_good_as_removed(router: Router) -> None:
    texts = [text for texts in (*NEW.values(), FAR) for text in texts[:40]]
    left_out = router.choose(texts, without={"food", "nothing of the kind"})
    assert router.choose(texts).count("food") > 20
    router.remove("food")
    assert left_out == router.choose(texts)
    assert router.choose(texts, without=("bank", "travel")) == [None] * len(texts)


def test_the_order_of_skills_does_not_matter(references: dict[str, SkillReference]) -> None:
    texts = [text for texts in (*NEW.values(), FAR) for text in texts[:20]]
    twin = {**references, "bank again": references["bank"]}  # a tie goes by name
    chosen = {tuple(Router(plant, {name: twin[name] for name in order}).choose(texts)) for order in permutations(twin)}
    assert len(chosen) == 1
    assert {"bank", "food", "travel", None} == set(*chosen)


def test_the_company_of_a_text_does_not_matter(router: Router) -> None:
    texts = [text for texts in (*NEW.values(), FAR) for text in texts[:10]]
    alone = [router.choose([text])[0] for text in texts]
    assert router.choose(texts) == alone
    assert router.choose(texts[::-1]) == alone[::-1]


def test_without_skills_or_texts_there_is_nothing_to_choose() -> None:
    empty = Router(plant)
    assert empty.choose(["bank/1", "food/1"]) == [None, None]
    assert empty.scores(["bank/1"]).shape == (1, 0)
    assert empty.choose([]) == []


def test_names_and_bases_are_checked(router: Router, references: dict[str, SkillReference]) -> None:
    with pytest.raises(ConfigError, match="the router has a skill 'bank' already"):
        router.add("bank", references["bank"])
    with pytest.raises(ConfigError, match="a skill needs a name"):
        router.add("", references["bank"])
    with pytest.raises(ConfigError, match="no skill 'cars'; it has: bank, food, travel"):
        router.remove("cars")
    turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))).Q
    with pytest.raises(MismatchError, match="the reference of the skill 'bank' is of another base"):
        Router(lambda texts: plant(texts) @ turned, references)
