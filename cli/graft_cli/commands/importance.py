"""The command `graft importance`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from graft.scores.registry import IMPORTANCE_SCORES
from graft.specs.runtime import Runtime
from graft_cli import options
from graft_cli.saving import describe_lines


@click.command("importance")
@click.argument("model")
@click.option(
    "--task", "task_file", type=click.Path(path_type=Path), help="TASK file (YAML) of the data that shows what to keep."
)
@options.data_root
@click.option(
    "--domain",
    "domain_file",
    type=click.Path(path_type=Path),
    help="TASK file of the data to be learned next: importance is then general / (domain + eps).",
)
@options.choose(
    "--method", registry=IMPORTANCE_SCORES, default="saliency", show_default=True, help="How to score the weights."
)
@click.option("--top", type=float, default=0.1, show_default=True, help="Share of the weights in scope to select.")
@click.option(
    "--soft", is_flag=True, help="Write importance weights for `train --method regularize` instead of a mask."
)
@click.option("--base", metavar="MODEL", help="movement: the model that MODEL was tuned from.")
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    help="path: what `graft train --record` wrote. [default: in MODEL's folder]",
)
@click.option(
    "--micro-batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Examples whose gradients are averaged before they are scored; 1 is exact, more is faster.",
)
@click.option(
    "--scope",
    default="all",
    show_default=True,
    help="Tensors to look at: layers, embeddings, heads, a sum, all, or a regex.",
)
@options.seed
@options.output("File to write: a mask (core region), or with --soft importance weights.")
@options.runs_model
@options.force
@options.as_json
@options.debug
def command(
    model: str,
    task_file: Path | None,
    domain_file: Path | None,
    top: float,
    soft: bool,
    base: str | None,
    record: Path | None,
    seed: int | None,
    output: Path,
    runtime: Runtime,
    force: bool,
    as_json: bool,
    **settings: object,
) -> None:
    """Find the weights of MODEL that matter most to what it knows, as a core region for `train --protect`.

    \b
    Example:
      graft importance runs/general --task general.yaml --domain domain.yaml --top 0.5 -o core.safetensors
      graft train runs/general --task domain.yaml --protect core.safetensors -o runs/both
      graft importance runs/general --task general.yaml --method fisher --top 1 --soft -o ewc.safetensors
    """
    from graft.files.claims import claim_output
    from graft.files.location import local_paths
    from graft.patch.format.writing import save_patch
    from graft.patch.summary import describe_patch
    from graft.specs.importance import ImportanceSpec
    from graft.specs.reader import read_config
    from graft.train.importance.importance_file import describe_importance, save_importance
    from graft.train.importance.measuring import measure_importance

    task, domain = (None if file is None else options.load_task(file, seed) for file in (task_file, domain_file))
    inputs = [*local_paths(model, base, record), *options.files_of((task_file, task), (domain_file, domain))]
    claim = claim_output(output, is_folder=False, force=force, inputs=inputs)
    config = read_config(ImportanceSpec, settings, "command line")
    measure = partial(measure_importance, model, task, config, domain=domain, base=base, record=record)
    importance = measure(device=runtime.device, dtype=runtime.dtype)
    if soft:
        weights = importance.keep(top)
        save_importance(weights, claim)
        content = describe_importance(weights, output)
        lines = options.columns((key.replace("_", " "), value) for key, value in content.items())
    else:
        mask = importance.core(top)
        save_patch(mask, claim, provenance=importance.provenance)
        content = describe_patch(mask, output.stat().st_size, importance.provenance)
        lines = describe_lines(content)
    options.show(content, as_json, [*lines, f"wrote {output}"])
