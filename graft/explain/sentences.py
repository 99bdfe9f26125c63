"""An explanation in words: sentences that a person understands, each with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from graft.explain.activations import Activations
from graft.explain.changed_texts import ChangedText, ChangedTexts
from graft.explain.explanation import Explanation
from graft.explain.sharing import Sharing

_FEW = 6  # names in a sentence
_ELSEWHERE = {  # role of a matrix, or else kind of a tensor -> what such are called
    "writes": "matrices that write to it",
    "within": "matrices that do neither",
    "embedding": "embeddings",
    "norm": "norms",
    "bias": "biases",
    "unknown": "not placed",
}
_WIDTH = 90  # characters of a text in a line


def describe_explanation(explanation: Explanation) -> list[str]:
    """Return sentences for a person, from where the entries lie to the texts that change."""
    lines = [
        *_describe_readers(explanation),
        *_describe_sharing(explanation),
        *_describe_rest(explanation),
        *_describe_rank(explanation),
        *_describe_unknown(explanation),
    ]
    if explanation.activations is not None:
        lines += _describe_activations(explanation.activations)
    return lines


def describe_texts(texts: ChangedTexts) -> list[str]:
    """Return a sentence on all texts, and a line for each of those that change most."""
    flipped = "" if texts.n_flipped is None else f"; the likeliest label changes in {texts.n_flipped:,}"
    unit = "nats a token" if texts.n_flipped is None else "nats"
    head = f"From base to graft, KL is {texts.mean_kl:.3g} {unit} on {texts.n:,} validation texts{flipped}. The most:"
    return [head, *(f"  {_describe_text(text)}" for text in texts.most)]


def shorten_text(text: ChangedText) -> str:
    """Return a text on one line, cut off where it is long."""
    line = " ".join(" | ".join(text.texts).split())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"


def describe_change(text: ChangedText) -> str:
    """Return how the probabilities of the labels at stake change; empty of heads without labels."""
    before, after = text.before or {}, text.after or {}
    return ", ".join(f"{label} {before[label]:.2f} → {after[label]:.2f}" for label in before)


def _describe_readers(explanation: Explanation) -> Iterator[str]:
    readers, common = explanation.readers, explanation.commonest
    k = sum(tensor.k for tensor in readers)
    if common is None:
        yield f"Of {_count(explanation.k, 'entry')} none lies in a matrix that reads the residual stream."
        return
    are = "the one touched matrix that reads" if len(readers) == 1 else f"the {len(readers)} touched matrices that read"
    share = _percent(k / explanation.k)
    yield f"Of {_count(explanation.k, 'entry')} {k:,} ({share}) {_lie(k)} in {are} the residual stream."
    listed = ", ".join(f"{dimension} ({n:,})" for dimension, n in common.counts.items())
    n = len(common.counts)
    yield (
        f"Of these {common.k:,} ({_percent(common.share)}) {_lie(common.k)} in {n} of "
        f"{_count(explanation.width, 'input dimension')}: "
        f"{listed}; as many random entries would have {_percent(common.by_chance)} in their {n} commonest. "
        f"{'It is' if k == 1 else 'They are'} as concentrated as an even spread over {_spread(common.effective)}."
    )
    if len(readers) > 1:
        recur = ", ".join(f"{dimension} in {n_in}" for dimension, n_in in list(common.tensors.items())[:_FEW])
        yield f"The same dimensions recur in the matrices: {recur} of {len(readers)}."


def _describe_sharing(explanation: Explanation) -> Iterator[str]:
    inputs, outputs = explanation.sharing("inputs"), explanation.sharing("outputs")
    if inputs.index is not None and outputs.index is not None:
        yield (
            f"Two entries of a matrix share their input dimension in {_percent(inputs.index)} of pairs, by chance in "
            f"{_by_chance(inputs)}; their output dimension in {_percent(outputs.index)}, by chance, with as many "
            f"entries in each column, in {_by_chance(outputs)}."
        )


def _by_chance(sharing: Sharing) -> str:
    times = "" if sharing.ratio is None else f" ({_times(sharing.ratio)})"
    return f"{_percent(sharing.expected / sharing.pairs)}{times}"


def _describe_rest(explanation: Explanation) -> Iterator[str]:
    parts = dict.fromkeys(_ELSEWHERE.values(), 0)
    for tensor in explanation.tensors:
        role, kind = tensor.place.role, tensor.place.kind
        if role != "reads":
            parts[_ELSEWHERE["unknown" if role == "unknown" else role if kind == "matrix" else kind]] += tensor.k
    told = [f"{name} {n:,} ({_percent(n / explanation.k)})" for name, n in parts.items() if n]
    if told:
        yield f"Entries elsewhere: {', '.join(told)}."
    if explanation.tokens:
        yield f"Rows of the word embeddings with the most entries: {_list_tokens(explanation)}."
    if explanation.dense:
        whole = sum(explanation.dense.values())
        tensors = _count(len(explanation.dense), "whole tensor")
        yield f"Beside the entries it brings {tensors} of {_count(whole, 'weight')}."


def _list_tokens(explanation: Explanation) -> str:
    rows = explanation.tokens[:_FEW]
    return ", ".join(f"{row if token is None else repr(token)} ({k:,})" for token, row, k in rows)


def _describe_rank(explanation: Explanation) -> Iterator[str]:
    n, rank, taken = len(explanation.matrices), f"{explanation.largest_rank:,}", f"{explanation.factor_bytes:,} bytes"
    if n == 1:
        yield f"The one matrix has exact rank {rank}; as a LoRA of that rank its factors take {taken} in float32."
    elif n:
        yield (
            f"The {n:,} matrices have exact rank {rank} at most; as a LoRA of those ranks their factors take {taken} "
            "in float32."
        )


def _describe_unknown(explanation: Explanation) -> Iterator[str]:
    unknown = explanation.of_role("unknown")
    if unknown:
        named = ", ".join(
            f"{tensor.name} ({_count(tensor.k, 'entry')}; {tensor.place.why})" for tensor in unknown[:_FEW]
        )
        more = f" and {len(unknown) - _FEW} more" if len(unknown) > _FEW else ""
        yield f"Not placed at the residual stream: {named}{more}."


def _describe_activations(activations: Activations) -> Iterator[str]:
    if activations.dimensions:
        told = ", ".join(
            f"{row.dimension} is {_number(row.rms)} (no. {row.position} by size, {_times(row.times_median)} the "
            f"median; mean {_number(row.mean)}, spread {_number(row.spread)})"
            for row in activations.dimensions[:_FEW]
        )
        yield (
            f"On {_count(activations.n_texts, 'validation text')} of {_count(activations.n_tokens, 'token')}, the root "
            f"mean square of the inputs in dimension {told}."
        )
        largest = ", ".join(f"{row.dimension} ({_times(row.times_median)})" for row in activations.largest)
        yield f"The largest inputs, over the median dimension's, are those of {largest}."
    if activations.not_measured:
        yield f"Not measured: the inputs of {_list_names(activations.not_measured)}."


def _list_names(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def _describe_text(text: ChangedText) -> str:
    change, gold = describe_change(text), f", gold {text.gold}" if text.gold is not None else ""
    return f"{text.kl:.3f}  {f'{change}{gold}: ' if change else ''}{shorten_text(text)}"


def _count(n: int, word: str) -> str:
    """Return a number with its noun, in the plural but for 1."""
    plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{n:,} {word if n == 1 else plural}"


def _lie(n: int) -> str:
    return "lies" if n == 1 else "lie"


def _spread(effective: float) -> str:
    number = f"{effective:,.3g}"
    return f"{number} dimension" if number == "1" else f"{number} dimensions"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.5 or percent == 0 else f"{percent:.2g} %"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} ×" if ratio >= 100 else f"{ratio:.3g} ×"


def _number(value: float) -> str:
    return f"{value:.3g}"
