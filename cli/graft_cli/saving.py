"""What `diff` and `localize` do with the patch they made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft_cli import options, processes

if TYPE_CHECKING:
    from graft.patch.skill_patch import Patch


def save_and_show(
    patch: Patch,
    output: Path,
    *,
    force: bool,
    as_json: bool,
    more: Mapping[str, object] | None = None,
    lines: Sequence[str] = (),
) -> None:
    """Save the patch and print what is in it; `more` goes into the JSON, `lines` are for a person."""
    from graft.patch.file import describe_integrity, save_patch
    from graft.patch.summary import describe_patch

    if not processes.is_first():
        return
    save_patch(patch, output, force=force)
    content = describe_patch(patch, output.stat().st_size, patch.provenance)
    content["integrity"] = describe_integrity(output)
    options.show(content | dict(more or {}), as_json, [*describe_lines(content), *lines, f"wrote {output}"])


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
    if content.get("dense"):
        rows.append(("whole tensors", ", ".join(content["dense"]) + f" ({content['dense_bytes']:,} bytes)"))  # type: ignore[arg-type]
    rows += [
        (key, _short(content[key])) for key in ("method", "task", "metrics", "licence", "tool") if content.get(key)
    ]
    rows.append(("layers", ", ".join(f"{layer} {k:,}" for layer, k in content["layers"].items())))  # type: ignore[attr-defined]
    return options.columns(rows)


def _percent(share: object) -> str:
    return f"{share:.4%}" if isinstance(share, float) else "unknown"


def _short(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    plain = {key: item for key, item in value.items() if isinstance(item, (str, int, float))}
    return ", ".join(f"{key} {round(item, 4) if isinstance(item, float) else item}" for key, item in plain.items())
