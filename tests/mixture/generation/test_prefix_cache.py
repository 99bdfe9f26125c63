"""Keys and values of a prefix are those of the grafted model; what a skill leaves as in the base is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graft
from graft.errors import ConfigError
from graft.mixture.generation.continuous_batch import ContinuousBatch
from graft.mixture.generation.prefix_cache import PrefixCache
from graft.mixture.generation.request import GenerationRequest
from graft.patch.skill_patch import Patch
from tests.mixture.generation.models import (
    N_LAYERS,
    N_WORDS,
    change,
    decoder,
    generate,
    layer,
    patches_of,
    run_all,
)

KINDS = ("llama", "gpt2", "tied")
PREFIX = (5, 6, 7, 8, 9, 10, 11)
STARTS = {None: 4, "all": 0, "upper": 2, "norm": 4, "words": 0, ("upper", "norm"): 2, ("norm", "words"): 0}


class Counted:
    """A cache on a model that counts how often each layer works."""

    def __init__(self, kind: str, **more: Any) -> None:
        self.kind, self.calls = kind, Counter[int]()
        self.mixed = graft.serve_patches(decoder(kind), patches_of(kind), on_overlap="first")
        self.prefixes = PrefixCache(self.mixed, **more)
        self.prefixes.add(PREFIX)
        layers = decoder(kind).transformer.h if kind == "gpt2" else decoder(kind).model.layers
        self._hooks = [
            module.mlp.register_forward_hook(lambda *_, number=number: self.calls.update([number]))
            for number, module in enumerate(layers)
        ]

    def fetch(self, skill: Any, prefix: tuple[int, ...] = PREFIX) -> list[int]:
        """Check what is fetched against the grafted model, and return which layers worked for it."""
        self.calls.clear()
        found = self.prefixes.fetch(skill, prefix)
        worked = sorted(self.calls.elements())
        names = (skill,) if isinstance(skill, str) else skill or ()
        expected = whole(self.kind, self.mixed.patches(names), prefix)
        assert found.lengths == (len(prefix),)
        for layers in zip(found.layers, expected, strict=True):
            for kept, computed in zip(*layers, strict=True):
                torch.testing.assert_close(kept, computed, rtol=1e-5, atol=1e-5)
        return worked

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self.mixed.close()


def whole(kind: str, patches: tuple[Patch, ...], tokens: tuple[int, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values that the grafted model computes."""
    model = decoder(kind)
    with torch.no_grad():
        if not patches:
            cache = model(torch.tensor([tokens]), use_cache=True).past_key_values
        else:
            with graft.apply_patch(model, *patches, on_overlap="first"):
                cache = model(torch.tensor([tokens]), use_cache=True).past_key_values
    return [(kept.keys, kept.values) for kept in cache.layers]


@pytest.fixture(params=KINDS)
def counted(request: pytest.FixtureRequest) -> Iterator[Counted]:
    found = Counted(request.param)
    yield found
    found.close()


@pytest.fixture
def llama() -> Iterator[Counted]:
    found = Counted("llama")
    yield found
    found.close()


def test_skills_change_keys_and_values_from_their_first_layer_on() -> None:
    base = whole("llama", (), PREFIX)
    for skill, start in {"all": 0, "upper": 3, "norm": 4, "words": 0}.items():  # upper's layer 2 reads as the base's
        changed = whole("llama", (patches_of("llama")[skill],), PREFIX)
        same = [torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(base, changed, strict=True)]
        assert same[: STARTS[skill]] == [True] * STARTS[skill]
        assert not any(same[start:])


def test_what_is_fetched_is_what_the_grafted_model_computes_and_only_touched_layers_work(counted: Counted) -> None:
    starts = {skill: counted.prefixes.first_layer(skill) for skill in STARTS}
    norm_is_tied = counted.kind in ("gpt2", "tied")  # the head is, and no skill here touches it but with the words
    assert norm_is_tied or starts == STARTS
    assert starts == STARTS
    assert counted.fetch("all") == [0, 1, 2, 3]
    assert counted.fetch("upper") == [0, 1, 2, 2, 3, 3]  # the base, and the skill from layer 2 on
    assert counted.fetch(None) == []
    assert counted.fetch("norm") == []
    assert counted.fetch(("upper", "norm")) == [2, 3]
    assert counted.fetch("words") == [0, 1, 2, 3]
    assert [counted.fetch(skill) for skill in STARTS][:-1] == [[]] * 6


def test_the_layers_below_a_skill_are_held_once(llama: Counted) -> None:
    cache = llama.prefixes
    base = cache.fetch(None, PREFIX)
    before = cache.n_bytes
    assert before == base.n_bytes > 0
    upper = cache.fetch("upper", PREFIX)
    hidden = len(PREFIX) * 16 * 4
    assert cache.n_bytes == before + base.n_bytes // 2 + hidden
    assert [a[0] is b[0] for a, b in zip(base.layers, upper.layers, strict=True)] == [True, True, False, False]
    cache.fetch("norm", PREFIX)
    assert cache.n_bytes == before + base.n_bytes // 2 + hidden


def test_a_later_skill_goes_on_from_the_nearest_layer_that_is_known(llama: Counted) -> None:
    model = decoder("llama")
    for number in range(N_LAYERS):
        llama.mixed.add(f"from {number}", change(model, [layer("llama", number)], 9))
    assert llama.fetch("from 2") == [0, 1, 2, 2, 3, 3]
    assert llama.fetch("from 3") == [2, 3]  # layer 2 once more, as the base's
    assert llama.fetch("from 1") == [0, 1, 2, 3]
    llama.mixed.add("again", change(model, [layer("llama", 1)], 10))
    assert llama.fetch("again") == [1, 2, 3]


@settings(derandomize=True, deadline=None, max_examples=6)
@given(data=st.data())
def test_in_any_order_and_with_any_room_it_is_the_grafted_model_s(data: st.DataObject) -> None:
    one = 4 * 2 * 2 * len(PREFIX) * 4 * 4  # bytes of a whole prefix
    counted = Counted("llama", max_bytes=data.draw(st.sampled_from([0, one // 2, 2 * one, 10 * one])))
    try:
        for _ in range(data.draw(st.integers(1, 8))):
            prefix = data.draw(st.sampled_from([PREFIX, PREFIX[:3], (1, 2)]))
            counted.fetch(data.draw(st.sampled_from(list(STARTS))), prefix)
            assert counted.prefixes.n_bytes <= counted.prefixes._max_bytes
    finally:
        counted.close()


def test_what_was_used_least_lately_makes_room_and_the_base_stays_longest(llama: Counted) -> None:
    one = llama.prefixes.fetch(None, PREFIX).n_bytes
    cache = PrefixCache(llama.mixed, max_bytes=2 * one + 600)
    llama.prefixes = cache
    assert llama.fetch("upper") == [0, 1, 2, 2, 3, 3]
    assert llama.fetch("all") == [0, 1, 2, 3]  # the upper half of "upper" has to go
    assert llama.fetch("all") == []
    assert llama.fetch(None) == []
    assert llama.fetch("upper") == [2, 3]
    assert cache.n_bytes <= 2 * one + 600


def test_another_patch_of_the_same_name_finds_nothing_of_the_first(llama: Counted) -> None:
    llama.fetch("upper")
    llama.fetch("norm")
    before = llama.prefixes.n_bytes
    llama.mixed.remove("upper")
    llama.mixed.add("upper", change(decoder("llama"), [layer("llama", 2)], 77))
    assert llama.fetch("upper") == [2, 3]
    assert llama.prefixes.n_bytes == before  # what belonged to the first is gone
    llama.mixed.remove("upper")
    with pytest.raises(ConfigError, match="no skill 'upper'"):
        llama.prefixes.fetch("upper", PREFIX)


def test_the_longest_known_prefix_is_found_until_it_is_forgotten(llama: Counted) -> None:
    cache = llama.prefixes
    cache.add(PREFIX[:3])
    assert cache.match((*PREFIX, 1)) == PREFIX
    assert cache.match(PREFIX[:5]) == PREFIX[:3]
    assert cache.match(PREFIX[1:]) == cache.match(()) == ()
    cache.fetch(None, PREFIX)
    assert cache.n_bytes
    cache.remove(PREFIX)
    assert cache.n_bytes == 0
    assert cache.match((*PREFIX, 1)) == PREFIX[:3]


def test_a_prefix_that_cannot_be_is_refused(llama: Counted) -> None:
    for tokens, fact in {(): "at least one token", (N_WORDS,): "vocabulary", (1,) * 65: "more than the 64"}.items():
        with pytest.raises(ConfigError, match=fact):
            llama.prefixes.add(tokens)


def test_rows_join_with_what_is_kept(llama: Counted) -> None:
    texts = [(*PREFIX, 1, 2), (*PREFIX, 3), PREFIX, (*PREFIX[:4], 1)]
    batch = ContinuousBatch(llama.mixed, prefixes=llama.prefixes)
    llama.fetch("upper")
    llama.calls.clear()
    tokens: list[int] = []
    hook = decoder("llama").register_forward_pre_hook(
        lambda _, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    found = run_all(batch, [GenerationRequest(n, text, "upper", 1) for n, text in enumerate(texts)])
    hook.remove()
    assert found == {n: generate("llama", [patches_of("llama")["upper"]], text, 1) for n, text in enumerate(texts)}
    assert tokens == [1, 2 * 6, 4]  # of the texts that begin with it only the rest is read
    batch.join([GenerationRequest(0, (*PREFIX, 1), "upper", 3)])
    assert llama.prefixes.fetch("upper", PREFIX).layers[3][0].shape[2] == len(PREFIX)  # which a row does not write to
    assert len(batch.step()) == 1
    assert llama.fetch("upper") == []
    batch.close()


def test_a_model_whose_layers_hand_on_more_shares_nothing_and_is_right() -> None:
    model = decoder("llama")
    hook = model.model.layers[1].register_forward_pre_hook(lambda _, args: (args[0].clone(), *args[1:]))
    counted = Counted("llama")  # the second layer is not given the first one's output
    try:
        assert counted.prefixes.first_layer("upper") == 0
        assert counted.fetch("upper") == [0, 1, 2, 3]
        assert counted.fetch(None) == [0, 1, 2, 3]
        assert counted.fetch("norm") == [0, 1, 2, 3]
    finally:
        counted.close()
        hook.remove()
