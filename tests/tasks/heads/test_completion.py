from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from graft.errors import CheckpointError, ConfigError, DataError
from graft.evaluate.evaluation import predict_examples
from graft.specs.data import SplitSpec
from graft.specs.head import HeadSpec
from graft.tasks import loading
from graft.tasks.examples import Example, make_examples
from graft.tasks.heads.completion import CompletionHead
from tests.chat_models import (
    CHATML,
    answer_examples,
    answer_rows,
    answer_spec,
    byte_tokenizer,
    chat_examples,
    completion_head,
    small_model,
)

LAST = r"\| (\w+)$|^ *(\w+)$"
STEPS = 120  # after which about half of the answers are right


@pytest.fixture(scope="module")
def taught() -> CompletionHead:
    return completion_head(steps=STEPS)


def over(head: CompletionHead, **block: Any) -> CompletionHead:
    """The same model under another head block."""
    return CompletionHead(head.model, head.tokenizer, answer_spec(HeadSpec("completion", **block)))


@torch.no_grad()
def log_p_of(head: CompletionHead, example: Example) -> torch.Tensor:
    """ln p of each token of one plain row's answer, by hand."""
    prompt, answer = example.texts
    ids = head.tokenizer(prompt + answer + head.tokenizer.eos_token, return_tensors="pt")["input_ids"]
    start = len(head.tokenizer(prompt)["input_ids"])
    log_p = head.model(ids).logits[0, :-1].log_softmax(-1)
    return log_p.gather(1, ids[0, 1:, None])[start - 1 :, 0]


@torch.no_grad()
def greedy(head: CompletionHead, example: Example) -> str:
    """What the model writes after one prompt, token by token without a cache."""
    ids = head.tokenizer(example.texts[0], return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    while ids.shape[1] < start + 40 and (ids.shape[1] == start or ids[0, -1] != head.tokenizer.eos_token_id):
        ids = torch.cat([ids, head.model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return str(head.tokenizer.decode(ids[0, start:]))


def test_the_loss_is_the_mean_over_all_answer_tokens_and_parts_add_up_to_it(taught: CompletionHead) -> None:
    examples = answer_examples(7)
    alone = [log_p_of(taught, example) for example in examples]
    whole = taught.loss(examples)
    torch.testing.assert_close(whole, -torch.cat(alone).mean(), rtol=1e-5, atol=1e-5)
    assert taught.weigh(examples) == sum(map(len, alone))
    for size in (1, 2, 4):
        parts = [examples[i : i + size] for i in range(0, 7, size)]
        total = sum(taught.loss(part) * taught.share(part, examples) for part in parts)
        torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-6)
        means = torch.stack([taught.loss(part) for part in parts]).mean()
        assert abs((means - whole).item()) > 1e-4  # the control: a mean of means would depend on the batches


def test_outputs_are_of_the_same_tokens_in_equal_shares(taught: CompletionHead) -> None:
    examples = answer_examples(5)
    outputs = taught.outputs(examples)
    assert len(outputs.logits) == taught.weigh(examples)
    assert float(outputs.shares.sum()) == pytest.approx(1)
    targets = torch.cat([torch.tensor(row.answer) for row in taught._answers.encode(examples)])
    nll = torch.nn.functional.cross_entropy(outputs.logits, targets, reduction="none")
    torch.testing.assert_close((nll * outputs.shares).sum(), taught.loss(examples))


def test_a_row_is_right_exactly_if_greedy_decoding_writes_its_answer(taught: CompletionHead) -> None:
    examples = answer_examples(40, seed=9)
    columns = taught.predict_columns(examples, batch_size=7)
    right = [greedy(taught, row) == row.texts[1] + "<|im_end|>" for row in examples]
    assert (columns.predicted == columns.label).tolist() == right
    assert 0.1 < np.mean(right) < 0.9
    assert taught.accuracy(examples) == pytest.approx(np.mean(right))
    # a pattern writes every row that is not right out, and compares what it finds
    assert over(taught, answer="(?s).*").accuracy(examples) == pytest.approx(np.mean(right))


def test_confidence_is_the_probability_of_what_is_written(taught: CompletionHead) -> None:
    examples = answer_examples(24, seed=9)
    columns = taught.predict_columns(examples)
    for i, example in enumerate(examples):
        text = greedy(taught, example)
        if text.endswith("<|im_end|>"):
            said = Example((example.texts[0], text.removesuffix("<|im_end|>")), 0)
            assert columns.confidence[i] == pytest.approx(math.exp(float(log_p_of(taught, said).sum())), rel=1e-3)
    right = columns.label == columns.predicted
    assert 0 < right.sum() < len(right)
    np.testing.assert_allclose(columns.squared_error, 2 * (columns.confidence - right) ** 2)


@pytest.mark.parametrize("answer", [None, LAST], ids=["whole", "pattern"])
def test_no_number_depends_on_the_batch(taught: CompletionHead, answer: str | None) -> None:
    examples = answer_examples(20, seed=4)
    head = over(taught, answer=answer, template="{prompt} is{completion}")
    tables = [head.predict_columns(examples, batch_size=n) for n in (1, 3, 64)]
    turned = head.predict_columns(examples[::-1], batch_size=5)
    for table in tables[1:]:
        assert table.predicted.tolist() == tables[0].predicted.tolist()
        np.testing.assert_allclose(table.confidence, tables[0].confidence, rtol=1e-3, atol=1e-12)
        np.testing.assert_allclose(table.log_likelihood, tables[0].log_likelihood, rtol=1e-4)
    assert turned.predicted[::-1].tolist() == tables[0].predicted.tolist()
    assert (tables[0].predicted != tables[0].label).any()


def test_a_model_with_a_table_of_positions_writes_the_same_in_any_batch_and_within_its_places() -> None:
    torch.manual_seed(0)
    tokenizer, sizes = byte_tokenizer(), {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24}
    config = GPT2Config(vocab_size=len(tokenizer), initializer_range=0.3, bos_token_id=1, eos_token_id=2, **sizes)
    model = GPT2LMHeadModel(config).eval()
    head = CompletionHead(model, tokenizer, answer_spec(HeadSpec("completion", max_new_tokens=18)))
    examples = [*answer_examples(8), Example(("one two three four five six seven eight nine", " one"), 0)]
    tables = [head.predict_columns(examples, batch_size=n) for n in (1, 4, 64)]
    assert max(len(row.context) for row in head.inspect(examples)) + 18 > 24  # the last one has fewer places left
    for table in tables[1:]:
        assert table.predicted.tolist() == tables[0].predicted.tolist()
        np.testing.assert_allclose(table.confidence, tables[0].confidence, rtol=1e-3)


def test_a_report_has_nats_per_answer_token_and_exact_match(taught: CompletionHead) -> None:
    from graft.evaluate.evaluation import Predictions

    examples = answer_examples(30, seed=2)
    report = Predictions(predict_examples(taught, examples, 8, "test")).report()
    tokens = torch.cat([log_p_of(taught, example) for example in examples])
    assert report["nll"] == pytest.approx(-float(tokens.mean()), rel=1e-4)
    assert report["perplexity"] == pytest.approx(math.exp(report["nll"]))
    assert report["accuracy"] == pytest.approx(taught.accuracy(examples))
    assert report.n == 30
    assert "f1" not in report.metrics
    low, high = report.ci["nll"]
    assert low < report["nll"] < high
    assert 0 <= report["unanswered"] < 1


def test_a_pattern_compares_the_answer_alone_and_numbers_without_their_commas() -> None:
    head = completion_head(answer_spec(HeadSpec("completion", answer=r"#### *(-?[\d.,]+)")))
    rows = head.inspect([Example(("x", " 1 + 1 #### 1,234"), 0), Example(("x", " #### 7"), 0)])
    written = [head.tokenizer(text)["input_ids"] for text in (" so it is #### 1234", " 8 #### 7 #### 9", " none")]
    assert len({*head._comparison.compare(rows[0], written[0])}) == 1
    assert len({*head._comparison.compare(rows[1], written[1])}) == 1
    assert head._comparison.compare(rows[0], written[1])[0] != head._comparison.compare(rows[0], written[1])[1]
    nothing = [head._comparison.compare(row, written[2])[1] for row in rows]
    assert nothing[0] == nothing[1] < 0  # of two models that write the same without an answer both say the same
    assert nothing[0] != head._comparison.compare(rows[0], head.tokenizer(" neither")["input_ids"])[1] < 0


def test_a_pattern_that_finds_nothing_is_refused_and_one_that_finds_some_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_told", set())
    head = completion_head(answer_spec(HeadSpec("completion", answer=r"\| (\w+)$")))
    examples = [Example(("x", text), 0) for text in (" a | b", " c", " d")]
    columns = head.predict_columns(examples)
    assert "head.answer finds no answer in 2 of 3 completions: they count as wrong" in capsys.readouterr().err
    assert (columns.label[1:] != columns.predicted[1:]).all()
    with pytest.raises(ConfigError, match=r"finds no answer in any of 2 completions: the first is ' c'"):
        head.accuracy(examples[1:])
    with pytest.raises(ValueError, match=r"answer: '\(' is no regular expression"):
        HeadSpec("completion", answer="(")


def test_a_boundary_within_a_token_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, taught: CompletionHead
) -> None:
    monkeypatch.setattr(loading, "_told", set())
    joined = Example(("add t", "wo"), 0)
    rows = taught.inspect([joined, *answer_examples(2)])
    assert [row.is_joined for row in rows] == [True, False, False]
    assert taught.with_outputs([joined]) == [joined]  # of a batch, of which nothing is said
    assert "1 of 3 answers begin within the prompt's last token" in (said := capsys.readouterr().err)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("eos", ["<|im_end|>", "<|endoftext|>"])
def test_a_chats_answer_is_its_last_turn_and_ends_with_it(eos: str) -> None:
    tokenizer = byte_tokenizer(CHATML, eos)
    head = CompletionHead(small_model(tokenizer), tokenizer, answer_spec(messages="messages"))
    examples = chat_examples(4)
    for row, example in zip(head.inspect(examples), examples, strict=True):
        assert tokenizer.decode(row.answer) == example.texts[-1] + "<|im_end|>"
        assert tokenizer.decode(row.context).endswith("<|im_start|>assistant\n")
    two = head.inspect(examples)[1]
    learned = tokenizer.decode([i for i, flag in zip(two.ids, two.learned, strict=True) if flag])
    assert learned == "".join(f"{examples[1].texts[i]}<|im_end|>\n" for i in (1, 3))


def test_a_prompt_becomes_the_users_turn_after_the_systems() -> None:
    block = HeadSpec("completion", chat=True, system="be brief", template="Do: {prompt}\n{completion}")
    head = completion_head(answer_spec(block))
    (row,) = head.inspect([Example(("add one", "one"), 0)])
    assert head.tokenizer.decode(row.context) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nDo: add one<|im_end|>\n<|im_start|>assistant\n"
    )
    assert head.tokenizer.decode(row.answer) == "one<|im_end|>"
    chats = completion_head(answer_spec(HeadSpec("completion", system="be brief"), messages="messages"))
    (own,) = chats.inspect([Example(("be long", "x", "y"), 0, roles=("system", "user", "assistant"))])
    assert "be brief" not in head.tokenizer.decode(own.ids)


def test_tokenizers_that_cannot_end_an_answer_or_hold_a_chat_are_refused() -> None:
    for spec in (answer_spec(messages="messages"), answer_spec(HeadSpec("completion", chat=True))):
        assert completion_head(spec)
        with pytest.raises(ConfigError, match="has no chat template"):
            completion_head(spec, template=None)
    assert completion_head(template=None)
    tokenizer = byte_tokenizer(None)
    tokenizer.eos_token = None
    with pytest.raises(CheckpointError, match="no token for the end of a text"):
        CompletionHead(small_model(byte_tokenizer()), tokenizer, answer_spec())


WRONG_ROWS: dict[str, tuple[Any, str]] = {
    "no answer": ({"messages": [{"role": "user", "content": "x"}]}, "no message in 'messages' is the assistant's"),
    "an empty answer": (
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]},
        "an empty answer in 'messages'",
    ),
    "no list": ({"messages": "x"}, "is not a list of messages"),
    "an empty list": ({"messages": []}, "is not a list of messages"),
    "no role": ({"messages": [{"content": "x"}]}, "a message without a role or without text"),
    "a call of a tool": (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"name": "f"}]}]},
        "a message has 'tool_calls'; only role and content are read",
    ),
    "a picture": (
        {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "x"}, {"type": "image"}]}]},
        "a message has a part of type 'image'; only parts of type 'text' are read",
    ),
    "a part without its text": (
        {"messages": [{"role": "assistant", "content": [{"type": "text"}]}]},
        "a message has a part without its text",
    ),
    "no parts": ({"messages": [{"role": "assistant", "content": []}]}, "an empty answer in 'messages'"),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_rows_that_are_no_chat_are_refused_by_number(case: str) -> None:
    good = {"messages": [{"role": "assistant", "content": "x", "tool_calls": None}]}
    spec = answer_spec(messages="messages")
    assert make_examples([good], SplitSpec("rows"), spec)[0].roles == ("assistant",)
    row, fact = WRONG_ROWS[case]
    with pytest.raises(DataError, match=f"rows, row 2: .*{fact}"):
        make_examples([good, row], SplitSpec("rows"), spec)


def test_a_chat_that_the_template_refuses_is_named_by_its_set_its_place_and_its_words() -> None:
    twice = "messages[2:] and messages[1]['role'] == messages[2]['role']"
    strict = f"{{% if {twice} %}}{{{{ raise_exception('no') }}}}{{% endif %}}"
    head = completion_head(answer_spec(messages="messages"), template=strict + CHATML)
    good = chat_examples(2)
    assert len(head.inspect(good, "test")) == 2
    bad = Example(("add\none", "one", "two"), 0, roles=("user", "assistant", "assistant"))
    of_row = r"example 3 of 3, which begins 'add one': the tokenizer's chat template refuses turns of user, .* \(no\)"
    for measure in (head.accuracy, head.predict_columns):
        with pytest.raises(DataError, match=f"^test, {of_row}"):
            measure([*good, bad], label="test")
    with pytest.raises(DataError, match=f"^{of_row}"):
        head.loss([*good, bad])


def test_parts_of_text_are_one_text() -> None:
    parts = [{"type": "text", "text": "one", "image": None}, {"type": "text", "text": " two"}]
    row = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": parts}]}
    (example,) = make_examples([row], SplitSpec("rows"), answer_spec(messages="messages"))
    assert example.texts == ("x", "one two")


def test_prompts_without_answers_are_told_that_they_are_not_enough() -> None:
    with pytest.raises(DataError, match=r"no column 'completion'; it has prompt: .* prompts alone are not enough"):
        make_examples([{"prompt": "x"}], SplitSpec("rows"), answer_spec(), labeled=False)


def test_an_empty_completion_is_refused_by_number() -> None:
    rows = [*answer_rows(2), {"prompt": "x", "completion": "\n"}]
    assert len(make_examples(rows[:2], SplitSpec("rows"), answer_spec())) == 2
    with pytest.raises(DataError, match="rows, row 3: an empty answer in 'completion'"):
        make_examples(rows, SplitSpec("rows"), answer_spec())


WRONG_KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "template without its end": ({"head": HeadSpec("completion", template="{completion} {prompt}")}, "must end with"),
    "another place": (
        {"head": HeadSpec("completion", template="{text} {completion}")},
        "must hold {prompt}",
    ),
    "system without a chat": ({"head": HeadSpec("completion", system="x")}, "it goes with chat: true or with messages"),
    "messages and a prompt": ({"messages": "m", "prompt": "p"}, "messages hold prompt and answer: leave out prompt"),
    "messages and a template": (
        {"messages": "m", "head": HeadSpec("completion", template="{prompt} {completion}")},
        "head.template goes with prompts",
    ),
    "messages without a chat": ({"messages": "m", "head": HeadSpec("completion", chat=False)}, "chat: false goes with"),
    "labels": ({"labels": ("a", "b")}, "reads prompts and completions, or messages, and no labels"),
    "text": ({"text": "t"}, "text is no column of head.kind completion"),
    "a prompt elsewhere": (
        {"head": HeadSpec("lm"), "prompt": "p"},
        "prompt goes with head.kind completion, not with lm",
    ),
    "a split's text": ({"ood": {"o": SplitSpec("o.jsonl", text="t")}}, "text is no column that the task reads"),
    "a split's messages": ({"ood": {"o": SplitSpec("o.jsonl", messages="m")}}, "messages is no column that the task"),
}


@pytest.mark.parametrize("case", WRONG_KEYS)
def test_keys_that_do_not_go_together_are_refused(case: str) -> None:
    fields, fact = WRONG_KEYS[case]
    with pytest.raises(ValueError, match=fact.replace("{", r"\{")):
        answer_spec(**fields)


def test_a_split_may_name_its_own_columns() -> None:
    rows = [{"question": row["prompt"], "answer": row["completion"]} for row in answer_rows(2)]
    split = SplitSpec("rows", prompt="question", completion="answer")
    assert make_examples(rows, split, answer_spec()) == answer_examples(2)
    assert make_examples(
        rows, SplitSpec("rows"), answer_spec(prompt="question", completion="answer")
    ) == answer_examples(2)


@torch.no_grad()
def test_a_temperature_divides_the_logits_of_every_token_that_is_written(taught: CompletionHead) -> None:
    (example,) = [row for row in answer_examples(12, seed=1) if taught.accuracy([row]) == 1][:1]
    found = taught.predict_columns([example], temperature=2.5)
    prompt, answer = example.texts
    ids = taught.tokenizer(prompt + answer + taught.tokenizer.eos_token, return_tensors="pt")["input_ids"]
    start = len(taught.tokenizer(prompt)["input_ids"])
    log_p = (taught.model(ids).logits[0, :-1] / 2.5).log_softmax(-1).gather(1, ids[0, 1:, None])[start - 1 :, 0]
    np.testing.assert_allclose(found.log_likelihood, float(log_p.sum()), rtol=1e-4)
    np.testing.assert_allclose(found.confidence, math.exp(float(log_p.sum())), rtol=1e-3)
    assert found.confidence[0] < taught.predict_columns([example]).confidence[0]
