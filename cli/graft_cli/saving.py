"""Saving a patch that a command made, and showing what is in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graft_cli import options, processes

if TYPE_CHECKING:
    from graft.files.claims import Claim
    from graft.localize.pair_notes import Differences
    from graft.patch.mask import Mask
    from graft.patch.provenance import Provenance
    from graft.patch.skill_patch import Patch

MOST_RANKED = 2_000_000  # entries, whose rank takes a second or two


def save_and_show(
    patch: Patch,
    output: Claim,
    *,
    as_json: bool,
    more: Mapping[str, object] | None = None,
    lines: Sequence[str] = (),
    differences: Differences | None = None,
) -> None:
    """Save the patch and print what is in it.

    Args:
        patch: the patch.
        output: the file, claimed before the work.
        as_json: print JSON, not lines for a person.
        more: added to the JSON.
        lines: added to the lines for a person.
        differences: of the checkpoints that the patch was cut from; added to the JSON, and to stderr as notes.
    """
    from graft.patch.format.writing import save_patch

    if not processes.is_first():
        return
    save_patch(patch, output)
    extra = dict(more or {}) | (show_notes(differences) if differences else {})
    content = describe_file(output.path, patch, patch.provenance)
    options.show(content | extra, as_json, [*describe_lines(content), *lines, f"wrote {output}"])


def describe_file(file: Path, region: Patch | Mask, provenance: Provenance) -> dict[str, object]:
    """Return the content of `graft inspect --json` for a local file; the rank only where it takes little time."""
    from graft.patch.format.reading import describe_integrity
    from graft.patch.mask import Mask
    from graft.patch.summary import describe_patch
    from graft.patch.vertex_cover import largest_rank

    content = describe_patch(region, file.stat().st_size, provenance)
    mask = region if isinstance(region, Mask) else region.mask
    rank = largest_rank(mask) if content["k"] <= MOST_RANKED else None
    return {**content, "lora_rank": rank, "integrity": describe_integrity(file)}


def show_notes(differences: Differences) -> dict[str, object]:
    """Print notes on what is odd about two checkpoints on stderr, and return them for the JSON."""
    for note in differences.notes:
        click.echo(f"note: {note}", err=True)
    return differences.to_json()


def describe_lines(content: dict[str, object]) -> list[str]:
    """Format the content of `graft inspect --json` as lines for a person."""
    base = content["base"]
    assert isinstance(base, dict)
    rows: list[tuple[str, object]] = [("kind", content["kind"]), ("base", base["id"] or base["name"] or "unknown")]
    rows.append(("entries", f"{content['k']:,} of {content['n_parameters']:,} parameters"))
    if content["density"] is not None:
        rows.append(
            ("density", f"{_share(content['density'])} of all, {_share(content['density_maskable'])} of the scope")
        )
    rows.append(("scope", content.get("scope") or "unknown"))
    if "values" in content:
        rows.append(("values", _describe_values(content)))
    rows.append(("file", f"{content['bytes']:,} bytes"))
    if "integrity" in content:
        rows.append(("integrity", content["integrity"]))
    if "bound_ratio" in content:
        rows.append(
            ("coding", f"{content['bytes_per_entry']:.2f} bytes an entry, {content['bound_ratio']:.3f} x bound")
        )
    if content.get("lora_rank"):
        rows.append(("rank", f"its matrices fit a LoRA of rank {content['lora_rank']}"))
    if isinstance(buffers := content.get("buffers"), dict):
        rows.append(("buffers", ", ".join(f"{name} {k:,}" for name, k in buffers.items()) + ", counted apart"))
    rows += _vocabulary_rows(content)
    if content.get("dense"):
        rows.append(("whole tensors", ", ".join(content["dense"]) + f" ({content['dense_bytes']:,} bytes)"))  # type: ignore[arg-type]
    rows += [
        (key, text)
        for key in ("method", "task", "metrics", "result", "licence", "tool")
        if content.get(key) and (text := _flatten(content[key]))
    ]
    rows.append(("layers", ", ".join(f"{layer} {k:,}" for layer, k in content["layers"].items())))  # type: ignore[attr-defined]
    return options.columns(rows)


def _vocabulary_rows(content: dict[str, object]) -> list[tuple[str, object]]:
    """List the rows that a patch adds to a vocabulary, with their tokens."""
    grown, dense = content.get("grown") or {}, content.get("dense") or {}
    assert isinstance(grown, dict)
    assert isinstance(dense, dict)
    additions = {item["from"]: (item["tokens"], dense[name][0]) for name, item in grown.items()}
    rows: list[tuple[str, object]] = []
    for start, (tokens, n) in additions.items():
        known = ", ".join(repr(token) for token in tokens[:8] if token is not None)
        named = f": {known}{', …' if len(tokens) > 8 else ''}" if known else ", tokens unknown"
        rows.append(("vocabulary", f"{start:,} to {start + n:,} rows{named}"))
    return rows


def _describe_values(content: dict[str, object]) -> str:
    """Say where a patch's values come from, and of a refit what it was fitted to."""
    from graft.patch.provenance import Provenance
    from graft.patch.refit_record import read_record

    record = content.get("refit") or {}
    facts = read_record(Provenance(refit=record)).facts() if isinstance(record, dict) else []
    return f"{content['values']!s:.40}" + (f": {', '.join(facts)}" if facts else "")


def _share(value: object) -> str:
    from graft.results.cells import percent

    return percent(value) if isinstance(value, float) else "unknown"


def _flatten(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    plain = {key: item for key, item in value.items() if isinstance(item, (str, int, float))}
    return ", ".join(f"{key} {round(item, 4) if isinstance(item, float) else item}" for key, item in plain.items())
