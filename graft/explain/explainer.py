"""Explain a patch: its entries on its base and, with a task, its activations and the texts that change most."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from graft.arguments import checked
from graft.errors import ConfigError
from graft.explain.activations import measure_activations
from graft.explain.changed_texts import find_changed_texts
from graft.explain.explanation import Explanation, explain_mask
from graft.explain.residual import find_width
from graft.patch.compatibility import compare_digests
from graft.patch.format.reading import load_region
from graft.patch.mask import Mask
from graft.patch.merge import StoredTarget
from graft.patch.provenance import Provenance
from graft.patch.region_placement import place_region
from graft.patch.skill_patch import Patch
from graft.sources.opening import Model, OpenModel, open_model
from graft.specs.runtime import Runtime
from graft.tasks.head import open_head
from graft.tasks.label_order import rows_in
from graft.tasks.loading import tell
from graft.tasks.task import Task
from graft.tensors.hashing import digest_of
from graft.tensors.transposed import find_transposed, has_inputs
from graft.tensors.vocabulary import open_tokenizer

TOKENS = 10  # rows of word embeddings that are shown


@checked
def explain_patch(
    patch: Patch | Mask | str | Path,
    base: Model,
    *,
    task: Task | None = None,
    limit: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    dtype: str = "auto",
) -> Explanation:
    """Explain what a patch or mask is made of; without a task no model runs.

    Args:
        patch: the patch or mask, or a local file or folder of one. A mask whose file names another base is explained
            as if it were the base's, and a line on stderr says so.
        base: the model that it was cut from: a local folder, the embedded encoder, a Hub id, or a live model.
        task: adds the activations of its dimensions on the task's validation texts and, of a patch, the texts whose
            predictions it changes most.
        limit: read only so many of the validation texts, the first ones.
        batch_size: texts at once, which no result depends on beyond rounding.
        device, dtype: where and in which precision the model runs.

    Raises:
        PatchMismatchError: the patch was cut from another base.
        PatchFormatError, CheckpointError, DataError, ConfigError: an input is refused; the line says which and why.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ConfigError("batch_size and limit are 1 at least")
    region, origin = load_region(patch) if isinstance(patch, (str, Path)) else (patch, None)
    if not len(region):
        raise ConfigError("the mask has no entry: there is nothing to explain")
    opened = open_model(base)
    checkpoint = opened.checkpoint
    mask = place_region(region, StoredTarget(checkpoint), opened.located.name)
    if isinstance(region, Mask) and origin is not None:
        _note_other_base(origin, opened)
    weights = [name for name, spec in mask.specs.items() if has_inputs(name, spec.shape)]
    width = find_width(checkpoint.path, {name: checkpoint.spec(name).shape for name in checkpoint.names})
    explanation = explain_mask(mask, width=width, transposed=find_transposed(checkpoint, weights))
    dense = {name: t.numel() for name, t in region.dense.items()} if isinstance(region, Patch) else {}
    tokens = tuple(_name_tokens(explanation, checkpoint.path))
    explanation = dataclasses.replace(explanation, dense=dense, tokens=tokens)
    runtime = Runtime(device, dtype)
    return explanation if task is None else _run(explanation, region, opened, task, limit, batch_size, runtime)


def _note_other_base(origin: Provenance, base: OpenModel) -> None:
    """Say on stderr that a mask's file names another base; a mask holds no values by which that would show."""
    recorded = origin.base.digest
    if recorded and (difference := compare_digests(recorded, digest_of(base.checkpoint))):
        tell(f"note: the mask was made for another base than {base.located.name}: {difference}")


def _name_tokens(explanation: Explanation, folder: Path) -> list[tuple[str | None, int, int]]:
    """Return the commonest rows of the embeddings that have one for each token, with their tokens."""
    tables = [tensor for tensor in explanation.of_role("embeds") if tensor.inputs is not None]
    tokenizer = open_tokenizer(folder) if tables and folder.is_dir() else None
    vocabulary = len(tokenizer) if tokenizer is not None else 0
    sizes = [len(tensor.inputs.counts) for tensor in tables if tensor.inputs is not None]
    words = max(range(len(tables)), key=sizes.__getitem__, default=None)
    if tokenizer is None or words is None or sizes[words] < vocabulary or (side := tables[words].inputs) is None:
        return []
    rows = side.commonest(TOKENS)
    return [(tokenizer.convert_ids_to_tokens(row) if row < vocabulary else None, row, k) for row, k in rows]


def _run(
    explanation: Explanation,
    region: Patch | Mask,
    base: OpenModel,
    task: Task,
    limit: int | None,
    batch_size: int,
    runtime: Runtime,
) -> Explanation:
    """Add what only a run of the model on the task's validation texts tells."""
    examples = task.validation_examples()[:limit]
    rows = rows_in([region] if isinstance(region, Patch) else [], task.spec)
    head = open_head(base.checkpoint, task.spec, runtime, seed=task.spec.seed, rows=rows)
    readers = [tensor.name for tensor in explanation.readers]
    activations = texts = None
    if readers:
        activations = measure_activations(head, readers, explanation.stream, examples, batch_size=batch_size)
    if isinstance(region, Patch):
        texts = find_changed_texts(head, region, examples, batch_size=batch_size)
    return dataclasses.replace(explanation, activations=activations, texts=texts)
