"""What `diff` and `localize` do with the patch they made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from graft_cli import options, processes

if TYPE_CHECKING:
    from graft.files.claims import Claim
    from graft.localize.pair_notes import Differences
    from graft.patch.skill_patch import Patch


def save_and_show(
    patch: Patch,
    output: Claim,
    *,
    as_json: bool,
    more: Mapping[str, object] | None = None,
    lines: Sequence[str] = (),
    differences: Differences | None = None,
) -> None:
    """Save the patch and print what is in it; `more` goes into the JSON, `lines` are for a person.

    `differences`, of the checkpoints that the patch was cut from, go into both, as notes to a person.
    """
    from graft.patch.format.reading import describe_integrity
    from graft.patch.format.writing import save_patch
    from graft.patch.summary import describe_patch

    if not processes.is_first():
        return
    save_patch(patch, output)
    more = dict(more or {}) | (show_notes(differences) if differences else {})
    content = describe_patch(patch, output.path.stat().st_size, patch.provenance)
    content["integrity"] = describe_integrity(output.path)
    options.show(content | more, as_json, [*describe_lines(content), *lines, f"wrote {output}"])


def show_notes(differences: Differences) -> dict[str, object]:
    """Say on stderr what is odd about two checkpoints; the same for the JSON."""
    for note in differences.notes:
        click.echo(f"note: {note}", err=True)
    return differences.to_json()


def describe_lines(content: dict[str, object]) -> list[str]:
    """The content of `graft inspect --json` for a person."""
    base = content["base"]
    assert isinstance(base, dict)
    rows: list[tuple[str, object]] = [("kind", content["kind"]), ("base", base["id"] or base["name"] or "unknown")]
    rows.append(("entries", f"{content['k']:,} of {content['n_parameters']:,} parameters"))
    if content["density"] is not None:
        rows.append(
            ("density", f"{content['density']:.4%} of all, {_percent(content['density_maskable'])} of the scope")
        )
    rows.append(("scope", content.get("scope") or "unknown"))
    rows.append(("file", f"{content['bytes']:,} bytes"))
    if "integrity" in content:
        rows.append(("integrity", content["integrity"]))
    if "bound_ratio" in content:
        rows.append(
            ("coding", f"{content['bytes_per_entry']:.2f} bytes an entry, {content['bound_ratio']:.3f} x bound")
        )
    if isinstance(buffers := content.get("buffers"), dict):
        rows.append(("buffers", ", ".join(f"{name} {k:,}" for name, k in buffers.items()) + ", counted apart"))
    rows += _vocabulary_rows(content)
    if content.get("dense"):
        rows.append(("whole tensors", ", ".join(content["dense"]) + f" ({content['dense_bytes']:,} bytes)"))  # type: ignore[arg-type]
    rows += [
        (key, text)
        for key in ("method", "task", "metrics", "licence", "tool")
        if content.get(key) and (text := _short(content[key]))
    ]
    rows.append(("layers", ", ".join(f"{layer} {k:,}" for layer, k in content["layers"].items())))  # type: ignore[attr-defined]
    return options.columns(rows)


def _vocabulary_rows(content: dict[str, object]) -> list[tuple[str, object]]:
    """Where a patch brings new rows of a vocabulary, how many, and their tokens."""
    grown, dense = content.get("grown") or {}, content.get("dense") or {}
    assert isinstance(grown, dict)
    assert isinstance(dense, dict)
    found = {item["from"]: (item["tokens"], dense[name][0]) for name, item in grown.items()}
    rows: list[tuple[str, object]] = []
    for start, (tokens, n) in found.items():
        known = ", ".join(repr(token) for token in tokens[:8] if token is not None)
        named = f": {known}{', …' if len(tokens) > 8 else ''}" if known else ", tokens unknown"
        rows.append(("vocabulary", f"{start:,} to {start + n:,} rows{named}"))
    return rows


def _percent(share: object) -> str:
    return f"{share:.4%}" if isinstance(share, float) else "unknown"


def _short(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    plain = {key: item for key, item in value.items() if isinstance(item, (str, int, float))}
    return ", ".join(f"{key} {round(item, 4) if isinstance(item, float) else item}" for key, item in plain.items())
