"""Rows that join and leave between tokens generate what each one's grafted model generates of it alone."""

from __future__ import annotations

import functools
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
from graft.mixture.generation.request import GenerationRequest, TokenEvent
from tests.checkpoints import bits_of, make_patch
from tests.mixture.generation.models import LENGTH, N_WORDS, collect, decoder, generate, patches_of, run_all

KINDS = ("llama", "gpt2", "tied")
SKILLS = (None, "all", "upper", "norm", "words", ("upper", "norm"))
PREFIXES = ((5, 6, 7, 8, 9, 10), (5, 6, 7), (11, 12))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def serve(kind: str, **more: Any) -> graft.MixedModel:
    return graft.serve_patches(decoder(kind), patches_of(kind), **more)


@pytest.fixture
def mixed() -> Iterator[graft.MixedModel]:
    with serve("llama") as served:
        yield served


def expect(kind: str, request: GenerationRequest) -> list[int]:
    names = (request.skill,) if isinstance(request.skill, str) else request.skill or ()
    return _expect(kind, tuple(names), tuple(request.tokens))[: request.max_new_tokens]


@functools.cache
def _expect(kind: str, names: tuple[str, ...], tokens: tuple[int, ...]) -> list[int]:
    return generate(kind, [patches_of(kind)[name] for name in names], tokens, 12)


def test_the_skills_generate_different_tokens(kind: str) -> None:
    found = {skill: expect(kind, GenerationRequest(0, (5, 6, 7), skill, 12)) for skill in SKILLS}
    assert len({tuple(tokens) for tokens in found.values()}) == len(SKILLS)


@st.composite
def _requests(draw: st.DrawFn, id: int) -> GenerationRequest:
    prefix = draw(st.sampled_from((*PREFIXES, ())))
    rest = draw(st.lists(st.integers(0, N_WORDS - 1), min_size=0 if prefix else 1, max_size=9))
    return GenerationRequest(id, (*prefix, *rest), draw(st.sampled_from(SKILLS)), draw(st.integers(1, 8)))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_join_leave_and_are_cancelled_and_no_other_row_notices(kind: str) -> None:
    before = bits_of(decoder(kind))
    with serve(kind) as mixed:

        @settings(derandomize=True, deadline=None, max_examples=4)
        @given(data=st.data(), knows_prefixes=st.booleans())
        def check(data: st.DataObject, knows_prefixes: bool) -> None:
            _check_some_traffic(data, kind, mixed, knows_prefixes)

        check()
    assert bits_of(decoder(kind)) == before


def _check_some_traffic(data: st.DataObject, kind: str, mixed: graft.MixedModel, knows_prefixes: bool) -> None:
    requests: dict[int, GenerationRequest] = {}
    events: list[TokenEvent] = []
    cancelled: set[int] = set()
    prefixes = PrefixCache(mixed) if knows_prefixes else None
    for prefix in PREFIXES if prefixes else ():
        prefixes.add(prefix)
    batch = ContinuousBatch(mixed, prefixes=prefixes)
    for _ in range(data.draw(st.integers(1, 4))):
        n = data.draw(st.integers(1, 3))
        joining = [data.draw(_requests(len(requests) + place)) for place in range(n)]
        requests |= {request.id: request for request in joining}
        batch.join(joining)
        if data.draw(st.booleans()):
            cancelled.add(data.draw(st.sampled_from(sorted(requests))))
            batch.cancel(max(cancelled))
        for _ in range(data.draw(st.integers(0, 3))):
            events += batch.step()
    while not batch.idle:
        events += batch.step()
    assert batch.step() == []
    found = collect(events)
    for id, request in requests.items():
        expected = expect(kind, request)
        assert found.get(id, []) == expected[: len(found.get(id, []))]
        assert id in cancelled or found[id] == expected
    ends = [event.id for event in events if event.finished]
    assert len(ends) == len(set(ends))
    assert set(ends) >= requests.keys() - cancelled


@pytest.mark.parametrize("exact", [False, True])
def test_prompts_of_very_different_lengths_are_read_in_groups(exact: bool) -> None:
    texts = [tuple(range(1, n + 1)) for n in (1, 2, 30, 3, 17)]
    requests = [GenerationRequest(n, text, "all" if n % 2 else None, 6) for n, text in enumerate(texts)]
    with serve("llama", exact=exact) as mixed:
        batch, widths = ContinuousBatch(mixed), list[tuple[int, ...]]()
        hook = decoder("llama").register_forward_pre_hook(
            lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
        )
        found = run_all(batch, requests)
        hook.remove()
    assert found == {request.id: expect("llama", request) for request in requests}
    assert widths == [(1, 1), (1, 2), (2, 29), *[(5, 1)] * 6]


def test_only_the_last_logits_are_computed(mixed: graft.MixedModel) -> None:
    batch, shapes = ContinuousBatch(mixed), list[tuple[int, ...]]()
    hook = decoder("llama").lm_head.register_forward_hook(lambda *given: shapes.append(tuple(given[2].shape)))
    run_all(batch, [GenerationRequest(0, tuple(range(20)), "all", 2)])
    hook.remove()
    assert shapes == [(1, 1, N_WORDS)] * 3


def test_the_plans_of_rows_that_stay_are_made_once(mixed: graft.MixedModel) -> None:
    batch = ContinuousBatch(mixed)
    batch.join([GenerationRequest(0, (1, 2), "all", 9), GenerationRequest(1, (1, 2, 3), "upper", 4)])
    rows = batch._assigned
    assert rows is not None
    batch.step()
    plans = dict(rows.cache)
    assert plans
    for _ in range(2):
        batch.step()
        assert batch._assigned is rows
        assert all(rows.cache[key] is plan for key, plan in plans.items())
        assert len(rows.cache) == len(plans)
    batch.step()  # one row has left
    assert batch._assigned is not rows
    batch.close()


def test_draws_are_the_row_s_own(mixed: graft.MixedModel) -> None:
    def ask(id: int, seed: int | None = 7, skill: str | None = "all", **more: Any) -> GenerationRequest:
        return GenerationRequest(id, (1, 2, 3), skill, 12, **({"temperature": 1.5, "seed": seed} | more))

    batch = ContinuousBatch(mixed)
    alone = run_all(batch, [ask(0)])[0]
    others = [ask(1, 8), ask(2, 7), ask(3, None), ask(4, None), ask(5, skill=None), ask(6, temperature=0)]
    found = run_all(batch, [*others, ask(0, top_p=0.4)])
    assert found[2] == alone
    assert alone not in (found[1], found[3], found[4], found[0], found[5])
    assert found[3] != found[4]
    assert found[6] == expect("llama", ask(6))


def test_a_row_ends_with_a_stop_token_or_its_length(mixed: graft.MixedModel) -> None:
    tokens = expect("llama", GenerationRequest(0, (1, 2, 3), "all", 12))
    stop = tokens[5]
    n = tokens.index(stop) + 1
    batch = ContinuousBatch(mixed)
    batch.join([GenerationRequest("a", (1, 2, 3), "all", 12, stop_tokens=[stop])])
    events = [event for _ in range(n) for event in batch.step()]
    assert [event.token for event in events] == tokens[:n]
    assert [event.finished for event in events] == [None] * (n - 1) + ["stop"]
    assert batch.idle
    batch.join([GenerationRequest("b", (1, 2, 3), "all", 1)])
    assert [event.finished for event in batch.step()] == ["length"]


def test_a_row_whose_outputs_overflow_ends_and_no_other_row_notices(mixed: graft.MixedModel) -> None:
    weight = dict(decoder("llama").named_parameters())["model.norm.weight"].detach()
    mixed.add("broken", make_patch({"model.norm.weight": weight}, {"model.norm.weight": {0: 3e38, 1: -3e38}}))
    asked = [GenerationRequest(skill, (1, 2, 3), skill, 4) for skill in ("broken", "all")]
    batch = ContinuousBatch(mixed)
    batch.join(asked)
    events = batch.step()
    assert TokenEvent("broken", -1, "not_finite") in events
    while not batch.idle:
        events += batch.step()
    assert collect(events)["all"] == expect("llama", asked[1])


def test_a_request_that_cannot_be_taken_leaves_the_others(mixed: graft.MixedModel) -> None:
    batch = ContinuousBatch(mixed, max_rows=3, max_tokens=100)
    ok = GenerationRequest(0, (1, 2, 3), None, 5)
    batch.join([ok])
    for bad, fact in {
        GenerationRequest(1, (1,), "unknown"): "there is no skill 'unknown'",
        GenerationRequest(1, (1, N_WORDS)): "vocabulary of 48",
        GenerationRequest(1, (1, -1)): "vocabulary of 48",
        GenerationRequest(1, (1,) * 60, None, LENGTH - 59): f"60 tokens and 5 new ones are more than the {LENGTH}",
        GenerationRequest(0, (1,)): "same id",
    }.items():
        with pytest.raises(ConfigError, match=fact):
            batch.join([GenerationRequest(2, (1, 2)), bad])
    assert batch.fits([GenerationRequest(1, (1,) * 20, None, 13), GenerationRequest(2, (1,))])
    assert not batch.fits([GenerationRequest(1, (1,) * 20, None, 14), GenerationRequest(2, (1,))])  # 3 x 34 tokens
    for many in ([GenerationRequest(n, (1,)) for n in (1, 2, 3)], [GenerationRequest(1, (1,) * 46, None, 5)]):
        with pytest.raises(ConfigError, match="no room"):
            batch.join(many)
    with pytest.raises(ConfigError, match="51 tokens are more than the 50"):
        ContinuousBatch(mixed, max_tokens=50).check(GenerationRequest(1, (1,) * 46, None, 5))
    found = collect([event for _ in range(5) for event in batch.step()])
    assert found == {0: expect("llama", ok)}
    assert batch.idle


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"tokens": ()}, "at least one token"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": 2**63}, "seed"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], fact: str) -> None:
    with pytest.raises(ConfigError, match=fact):
        GenerationRequest(**({"id": 0, "tokens": (1,)} | values))


def test_a_failed_step_leaves_the_rows_as_they_were(mixed: graft.MixedModel) -> None:
    request = GenerationRequest(0, (1, 2, 3), "all", 6)
    batch = ContinuousBatch(mixed)
    batch.join([request])
    events = batch.step()

    def fail(*_: object) -> None:
        raise MemoryError

    hook = decoder("llama").model.layers[2].register_forward_pre_hook(fail)  # two layers have kept the token then
    with pytest.raises(MemoryError):
        batch.step()
    with pytest.raises(MemoryError):
        batch.join([GenerationRequest(1, (1, 2, 3))])
    hook.remove()
    while not batch.idle:
        events += batch.step()
    assert collect(events) == {0: expect("llama", request)}


def test_a_skill_cannot_go_while_a_row_carries_it_and_others_can_come(mixed: graft.MixedModel) -> None:
    batch, request = ContinuousBatch(mixed), GenerationRequest(0, (1, 2, 3), "all", 6)
    batch.join([request])
    events = batch.step()
    with pytest.raises(ConfigError, match="rows carry the skill 'all'"):
        mixed.remove("all")
    mixed.remove("norm")
    mixed.add("more", patches_of("llama")["norm"])
    other = GenerationRequest(1, (4, 5), "more", 6)
    batch.join([other])
    while not batch.idle:
        events += batch.step()
    assert collect(events)[0] == expect("llama", request)
    assert collect(events)[1] == generate("llama", [patches_of("llama")["norm"]], (4, 5), 6)
    mixed.remove("all")


def test_between_steps_the_model_is_the_base(mixed: graft.MixedModel) -> None:
    model, ids = decoder("llama"), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = model(ids).logits
        batch = ContinuousBatch(mixed)
        batch.join([GenerationRequest(0, (1, 2, 3), "all", 6)])
        batch.step()
        assert torch.equal(model(ids).logits, before)
        with mixed.skills(["all"]):
            assert not torch.equal(model(ids).logits, before)
        batch.close()
        assert batch.idle
        assert torch.equal(model(ids).logits, before)
    mixed.remove("all")
