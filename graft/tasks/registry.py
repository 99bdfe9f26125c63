"""The registry of heads: the ways in which a model's outputs become logits over a task's labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graft.registry import Entry, Registry


@dataclass(frozen=True, kw_only=True)
class HeadEntry(Entry):
    """A kind of head: its class, and what a TASK file has to say for it.

    Attributes:
        keys: the keys of the head block that it reads beside `kind`; another kind's key is refused, since it would be
            ignored without a word.
        slot: the place in a template that is filled with a label's text, word or choice: "{}", "{mask}" or "{choice}";
            None for a head without a template.
        template: the template where a TASK file gives none; None where it must.
        example: a template that an error shows.
        ends_with_slot: nothing may come after the slot.
        choices: whether rows bring texts of their own to choose from.
        has_labels: whether a row has a label; without, the head reads one text column alone.
        embeds_labels: whether each forward also takes a text per label, as memory plans count.
        own_layer: what the head stores beside the base model's weights: a layer of its own, which goes dense into the
            patch, cannot be shared by two tasks, and is made for the task's labels; None for nothing.
        more_metrics: what an evaluation reports of it beside the metrics of every head.
        auto_class: the class of transformers that loads a model with it, as a model card shows.
        pipeline: what the Hub calls such a task, its pipeline tag.
    """

    keys: tuple[str, ...] = ()
    slot: str | None = None
    template: str | None = None
    example: str = ""
    ends_with_slot: bool = False
    choices: Literal["refused", "allowed", "required"] = "refused"
    has_labels: bool = True
    embeds_labels: bool = False
    own_layer: str | None = None
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
            auto_class="AutoModelForSequenceClassification",
        ),
        HeadEntry(
            name="verbalizer",
            help="the probability of each label's word in a template, by a masked or causal language model",
            target="graft.tasks.heads.verbalizer:VerbalizerHead",
            source="arXiv 2012.15723",
            keys=("words", "template"),
            slot="{mask}",
            example="{text} It was {mask}.",
        ),
        HeadEntry(
            name="choice",
            help="the likelihood of each of a row's choices after its text, by a causal language model",
            target="graft.tasks.heads.choice:ChoiceHead",
            source="arXiv 2005.14165",
            keys=("template", "normalize"),
            slot="{choice}",
            template="{text} {choice}",
            ends_with_slot=True,
            choices="required",
            pipeline="multiple-choice",
        ),
        HeadEntry(
            name="lm",
            help="the next token of the text itself, by a causal language model; it needs no label",
            target="graft.tasks.heads.lm:LanguageModelHead",
            has_labels=False,
            more_metrics=("perplexity",),
            auto_class="AutoModelForCausalLM",
            pipeline="text-generation",
        ),
    ],
)
