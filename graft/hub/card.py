"""Card of a patch: the README.md of its repository, made of checked values and the template beside this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from graft.files.embedded import find_named
from graft.files.registry import EmbeddedEntry
from graft.hub.base_model import BaseModel, License
from graft.hub.card_data import make_card_data
from graft.hub.card_text import json_block, one_line, prose
from graft.hub.repo_files import PLOT, RECIPE, RELIABILITY, RUN
from graft.patch.provenance import CUT
from graft.patch.refit_record import MIXED, REFIT, read_record
from graft.patch.summary import Outline, describe_outline
from graft.results.cells import cell, fixed
from graft.results.figures import TEST, SetFigures, read_figures
from graft.sources.adapters.peft_adapter import WEIGHTS
from graft.tasks.registry import HEADS

TEMPLATE = Path(__file__).with_name("card_template.md")
_COMMANDS = """\
graft inspect {repository}
graft verify {repository} --base {base}
graft evaluate {base} --task task.yaml --patch {repository}
graft apply {base} {repository} -o merged"""
_USAGE_OF_MASK = """\
import graft

mask = graft.load_mask("core")  # the folder of the second command below
print(len(mask), "weights")"""
_COMMANDS_OF_MASK = """\
graft inspect {repository}
graft pull {repository} -o core"""
_LIMITS = """\
- It lands only where every value under it is bitwise the base's: another revision, another dtype or a quantized copy
  of the base is refused, not approximated.
- {quality}
- It teaches the task above and nothing else; the base's gaps and biases stay."""
_USAGE = """\
import graft
{more_imports}from transformers import {auto}

patch = graft.pull_patch("{repository}")
model = {auto}.from_pretrained({folder}, dtype="auto")
with graft.apply_patch(model, patch):  # every check comes before the first write
    ...  # here the model has the skill
# and here it is bitwise the base again"""

_ADAPTER = """\


The repository also holds the patch as a LoRA adapter, so that PEFT alone is enough:

```python
from transformers import {auto}

model = {auto}.from_pretrained("{repository}")  # the base, with the skill on its side
```

On the side its outputs agree with the patch's within rounding; merged into the weights by PEFT it gives the patch's
very bits."""


@dataclass(frozen=True)
class CardFacts:
    """Facts that a card states beside the patch itself.

    Attributes:
        repository: Hub id under which the patch is published.
        base: its base on the Hub; None for a local one.
        licence: of the patch; None where it has none.
        datasets: Hub ids of the training data.
        n_bytes: size of the patch file.
        files: names of the other files in the repository.
    """

    repository: str
    base: BaseModel | None
    licence: License | None
    datasets: Sequence[str]
    n_bytes: int = 0
    files: frozenset[str] = frozenset()


def compose_card(outline: Outline, facts: CardFacts) -> str:
    """Compose the whole card, head and body.

    Every text from the patch passes through `graft.hub.card_text`, so that it cannot act as Markdown, HTML or YAML.
    """
    task = outline.provenance.task or {}
    metrics = read_figures(outline.provenance.metrics)
    title = _title(outline, facts)
    data = make_card_data(
        title, task, metrics, base=facts.base, licence=facts.licence, datasets=facts.datasets
    ).to_yaml(line_break="\n")
    body = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(_values(outline, facts, task, metrics, title))
    return f"---\n{data}\n---\n\n{body}"


def _title(outline: Outline, facts: CardFacts) -> str:
    name = (outline.provenance.task or {}).get("name")
    return f"{one_line(name, 60) if name else 'A skill'} on {_base_name(outline, facts)}"


def _base_name(outline: Outline, facts: CardFacts) -> str:
    """Return the base's Hub id, or else its name, reduced to characters that fit into code and a command line."""
    name = outline.provenance.base.name or ""
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in one_line(name, 60))
    return facts.base.id if facts.base else plain.strip("-.") or "BASE"


def _values(
    outline: Outline, facts: CardFacts, task: Mapping[str, Any], metrics: Mapping[str, SetFigures], title: str
) -> dict[str, str]:
    base = _base_name(outline, facts)
    is_patch = outline.kind == "patch"
    head = task.get("head")
    kind = str(head.get("kind")) if isinstance(head, Mapping) else ""
    auto = HEADS[kind].auto_class if kind in HEADS else "AutoModel"
    names = {"auto": auto, "repository": facts.repository, **_reference(outline, facts, base)}
    return {
        "title": prose(title),
        "about": _describe_patch(outline, facts, task, base),
        "usage": (_USAGE if is_patch else _USAGE_OF_MASK).format(**names),
        "commands": (_COMMANDS if is_patch else _COMMANDS_OF_MASK).format(**names),
        "adapter": _ADAPTER.format(**names) if WEIGHTS in facts.files else "",
        "limits": _LIMITS.format(quality=_describe_quality(metrics))
        if is_patch
        else "It holds coordinates and no values.",
        "results": _results_table(metrics) + _reliability(facts),
        "where": _describe_layers(outline, facts),
        "method": _describe_method(outline, task, facts),
        "siblings": _list_siblings(facts),
    }


def _describe_patch(outline: Outline, facts: CardFacts, task: Mapping[str, Any], base: str) -> str:
    n = outline.provenance.base.n_parameters
    share = f" ({outline.k / n:.4%} of {n:,})" if n else ""
    weights = f"{outline.k:,} weights{share} of {_describe_base(outline, facts, base)}"
    if outline.kind == "mask":
        return f"A **core region**: {weights}, which later training may be told to leave as they are."
    return (
        f"A **skill patch**: {weights}, {_describe_values(outline, prose(task.get('name') or 'unnamed'))} "
        "Put on the base it gives the skill; taken off, the base is bitwise "
        f"what it was.{_explain_growth(outline)}{_state_result(outline)}"
    )


def _embedded(outline: Outline, facts: CardFacts) -> EmbeddedEntry | None:
    """Return the embedded model that is the base; one whose values are a Hub model's own goes by a Hub id if given."""
    identity = outline.provenance.base
    entry = find_named(identity.name) if identity.id is None else None
    return None if entry is None or (facts.base and entry.folder is None) else entry


def _reference(outline: Outline, facts: CardFacts, base: str) -> dict[str, str]:
    """Return how commands and code name the base."""
    entry = _embedded(outline, facts)
    if entry is None:
        return {"base": base, "folder": f'"{base}"', "more_imports": ""}
    return {
        "base": entry.name,
        "folder": f'locate("{entry.name}").path',
        "more_imports": "from graft.files.location import locate\n",
    }


def _describe_base(outline: Outline, facts: CardFacts, base: str) -> str:
    entry, on_hub = _embedded(outline, facts), f"[{base}](/{base})"
    if entry is None:
        local = f"{prose(base)} (a local checkpoint, which the author did not name on the Hub)"
        return on_hub if facts.base else local
    name = prose(outline.provenance.base.name)
    copy = f"; a quantized copy of {on_hub} back in full width, not equal to it" if facts.base else ""
    return f"{name} (`{entry.name}` to graft, after `pip install {entry.install}`{copy})"


def _describe_values(outline: Outline, task: str) -> str:
    """Describe where the values come from: copied from the fine-tuned model, or fitted to its outputs."""
    values, record = outline.provenance.values, read_record(outline.provenance)
    if values == CUT:
        return f"with the values that they have after\nfine-tuning on the task *{task}*."
    if values == MIXED:
        return (
            "some with the values that they have after\nfine-tuning, some fitted to a fine-tuned model's outputs, "
            f"for the task *{task}*."
        )
    if values != REFIT:
        return f"with values of a kind that this card does not know, for the task *{task}*."
    texts = "texts" if record.n_texts is None else f"{record.n_texts:,} texts"
    teacher = "" if record.teacher is None else f" (sha256 of its tensors: {record.teacher})"
    return (
        f"whose values are not those of the\nfine-tuned model but were fitted to its outputs on {texts}, for the task "
        f"*{task}*{teacher}: a *refit*, which localizes no skill."
    )


def _explain_growth(outline: Outline) -> str:
    """Explain, for a patch that adds rows to the vocabulary, how to make room for them first."""
    grown = outline.provenance.grown
    name = next((name for name in grown if name in outline.dense), None)
    if name is None:
        return ""
    rows = grown[name].start + outline.dense[name].shape[0]
    known = ", ".join(prose(token) for token in grown[name].tokens[:8] if token is not None)
    return (
        f"\n\nIt adds rows to the vocabulary{f' ({known})' if known else ''}: call "
        f"`model.resize_token_embeddings({rows})` first, or merge it on disk with `graft apply`."
    )


def _state_result(outline: Outline) -> str:
    """State the digest of the model that base and patch give, where the patch does."""
    digest = outline.provenance.result
    return f"\n\nResult: sha256 {prose(digest)}, check with `graft verify --result`." if digest else ""


def _results_table(metrics: Mapping[str, SetFigures]) -> str:
    if not metrics:
        return "The patch carries no measurements."
    lines = ["| set | n | accuracy | ECE | ECE of a perfect model at this n |", "|---|---|---|---|---|"]
    for name, item in metrics.items():
        label = "test split" if name == TEST else f"{prose(name)} (out of distribution)"
        cells = " | ".join(_cell(item, metric) for metric in ("accuracy", "ece", "ece_floor"))
        lines.append(f"| {label} | {item.n:,} | {cells} |")
    gain = metrics[TEST].numbers.get("recovered_gain") if TEST in metrics else None
    if gain is not None:
        lines.append(f"\nRecovered gain on the test split: {gain:.2f} of what fine-tuning gained in accuracy.")
    return "\n".join([*lines, "\nBrackets: 95 % basic bootstrap interval over examples."])


def _reliability(facts: CardFacts) -> str:
    image = f"\n\n![Reliability of base, tuned and grafted models]({RELIABILITY})"
    return image if RELIABILITY in facts.files else ""


def _cell(metrics: SetFigures, metric: str) -> str:
    if metric not in metrics.numbers:
        return ""
    return cell(metrics.numbers[metric], ends=metrics.intervals.get(metric), show=fixed(3))


def _describe_layers(outline: Outline, facts: CardFacts) -> str:
    rows = describe_outline(outline, facts.n_bytes)["layers"]
    lines = [f"![Entries by layer and module]({PLOT})\n"] if PLOT in facts.files else []
    lines += ["| layer | entries |", "|---|---|", *(f"| {prose(layer)} | {k:,} |" for layer, k in rows.items())]
    return "\n".join([*lines, f"\nThe file takes {facts.n_bytes:,} bytes."])


def _describe_method(outline: Outline, task: Mapping[str, Any], facts: CardFacts) -> str:
    provenance = outline.provenance
    content = {"method": provenance.method, "task": task, "scope": provenance.scope, "tool": provenance.tool}
    content["base"] = {key: value for key, value in vars(provenance.base).items() if value is not None}
    recipe = next(
        (f"\n\nThe whole recipe is in [{name}]({name})." for name in (RECIPE, RUN) if name in facts.files), ""
    )
    return json_block({key: value for key, value in content.items() if value}) + recipe


def _describe_quality(metrics: Mapping[str, SetFigures]) -> str:
    if not metrics:
        return "How well it works was not recorded."
    return "The numbers are the author's, measured on held-out data as recorded in the file; nobody else checked them."


def _list_siblings(facts: CardFacts) -> str:
    """List other patches by links relative to the root of the site, which name no host."""
    if facts.base is None:
        return "Nothing: the base has no Hub id."
    lines = [f"- [{other}](/{other})" for other in facts.base.siblings]
    return "\n".join([*lines, f"- [All adapters of the base](/models?other=base_model:adapter:{facts.base.id})"])
