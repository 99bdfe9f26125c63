"""The registry of heads, which turn a model's outputs into logits over a task's labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graft.registry import Entry, Registry


@dataclass(frozen=True, kw_only=True)
class HeadEntry(Entry):
    """A kind of head: its class, and the keys of a TASK file that it needs.

    Attributes:
        keys: the keys of the head block that it reads beside `kind`; another kind's key is refused, since it would be
            ignored without a word.
        slot: the placeholder in a template for a label's text, word or choice: "{}", "{mask}" or "{choice}"; None for a
            head without a template.
        template: the default template; None where a TASK file must give one.
        example: a template that an error shows.
        ends_with_slot: nothing may follow the slot.
        choices: rows with texts of their own to choose from are refused, allowed or required.
        has_labels: rows have labels; without them the head reads one text column alone.
        has_answers: a row is a prompt with its completion, or the messages of a chat, in place of a text.
        embeds_labels: each forward pass also takes a text per label, as memory plans count it.
        own_layer: name of a layer that the head has beside the base model, which is stored dense in the patch, cannot
            be shared by two tasks, and is made for the task's labels; None without one.
        models: the kinds of model that it is put on; heads on one kind can share a model.
        more_metrics: metrics that an evaluation reports beside those of every head.
        auto_class: the class of transformers that loads its model, as a model card shows.
        pipeline: the Hub's pipeline tag of such a task.
    """

    keys: tuple[str, ...] = ()
    slot: str | None = None
    template: str | None = None
    example: str = ""
    ends_with_slot: bool = False
    choices: Literal["refused", "allowed", "required"] = "refused"
    has_labels: bool = True
    has_answers: bool = False
    embeds_labels: bool = False
    own_layer: str | None = None
    models: tuple[str, ...] = ("encoder",)
    more_metrics: tuple[str, ...] = ()
    auto_class: str = "AutoModel"
    pipeline: str = "text-classification"


HEADS = Registry(
    "head",
    [
        HeadEntry(
            name="similarity",
            help="20 x the cosine between the embeddings of a text and of each label's text",
            target="graft.tasks.heads.similarity:SimilarityHead",
            source="arXiv 1908.10084",
            keys=("texts", "template"),
            slot="{}",
            template="{}",
            choices="allowed",
            embeds_labels=True,
        ),
        HeadEntry(
            name="classifier",
            help="AutoModelForSequenceClassification, its new layer stored dense in the patch",
            target="graft.tasks.heads.classifier:ClassifierHead",
            own_layer="the classification layer",
            models=("classifier",),
            auto_class="AutoModelForSequenceClassification",
        ),
        HeadEntry(
            name="verbalizer",
            help="the probability of each label's word in a template, by a masked or causal language model",
            target="graft.tasks.heads.verbalizer:VerbalizerHead",
            source="arXiv 2012.15723",
            keys=("words", "template", "chat", "system"),
            slot="{mask}",
            example="{text} It was {mask}.",
            models=("masked", "causal"),
        ),
        HeadEntry(
            name="choice",
            help="the likelihood of each of a row's choices after its text, by a causal language model",
            target="graft.tasks.heads.choice:ChoiceHead",
            source="arXiv 2005.14165",
            keys=("template", "normalize", "chat", "system"),
            slot="{choice}",
            template="{text} {choice}",
            ends_with_slot=True,
            choices="required",
            models=("causal",),
            pipeline="multiple-choice",
        ),
        HeadEntry(
            name="lm",
            help="the next token of the text itself, by a causal language model; it needs no label",
            target="graft.tasks.heads.lm:LanguageModelHead",
            has_labels=False,
            models=("causal",),
            more_metrics=("perplexity",),
            auto_class="AutoModelForCausalLM",
            pipeline="text-generation",
        ),
        HeadEntry(
            name="completion",
            help="the answer to a prompt or in a chat, token by token, by a causal language model that writes it",
            target="graft.tasks.heads.completion:CompletionHead",
            keys=("template", "chat", "system", "answer", "max_new_tokens"),
            slot="{completion}",
            template="{prompt}{completion}",
            ends_with_slot=True,
            has_labels=False,
            has_answers=True,
            models=("causal",),
            more_metrics=("perplexity", "unanswered"),
            auto_class="AutoModelForCausalLM",
            pipeline="text-generation",
        ),
    ],
)
