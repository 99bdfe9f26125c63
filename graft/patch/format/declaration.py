"""Declaration in the header of a patch or mask file: kind, table of tensors, provenance and hashes, cross-checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from graft.errors import CheckpointError, PatchFormatError
from graft.files.header import Header, clip_text, parse_json, quote, read_header
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.integrity import Seal
from graft.patch.format.layout import check_layout
from graft.patch.format.lines import LINE_CODES
from graft.patch.format.tensor_table import TensorRow, read_table
from graft.patch.growth import find_contradiction
from graft.patch.provenance import Provenance

KEY = "skill_patch"
FORMAT = 1
FORMAT_OF_LINES = 2  # of files with whole rows or columns of matrices, which a reader of format 1 does not know
FILE_NAME = "patch.safetensors"
MAX_PATCH_HEADER = 2**25  # bytes of rows and provenance: room for 200,000 tensors


@dataclass(frozen=True)
class Declaration:
    """A declaration whose parts agree with one another; no value has been read yet.

    Attributes:
        kind: "patch" or "mask".
        rows: the table of tensors, which was found to agree with its hash, in ascending order of name.
        provenance: where the patch came from.
        seal: the hashes of the file's tensors, which have not been compared yet.
        dense: name -> dtype and shape, of the tensors that are stored whole, in ascending order of name.
        has_base: whether the base's values are stored.
    """

    kind: str
    rows: tuple[TensorRow, ...]
    provenance: Provenance
    seal: Seal
    dense: Mapping[str, TensorSpec]
    has_base: bool


def read_patch_header(path: Path) -> tuple[Path, Header]:
    """Read the header of a patch or mask file, or of the one in a folder.

    Returns:
        The file and its header.

    Raises:
        PatchFormatError: missing, truncated or junk.
    """
    try:
        file = path / FILE_NAME if path.is_dir() else path
        return file, read_header(file, MAX_PATCH_HEADER)
    except (CheckpointError, OSError) as error:
        raise PatchFormatError(str(error)) from error


def read_declaration(header: Header, where: str) -> Declaration:
    """Read the declaration in a header, and check its parts against one another.

    Args:
        header: of a local file, or of one on the Hub.
        where: the file's name for an error.

    Raises:
        PatchFormatError: not a patch, another format, a table that contradicts itself or its hash, or tensors that are
            not the ones that the table calls for.
    """
    meta = _read_meta(header, where)
    kind = str(meta["kind"])
    rows = read_table(meta.get("tensors"), kind, where)
    _check_codes(rows, meta["format"], where)
    try:
        provenance = Provenance.from_json(meta)
    except ValueError as error:
        raise PatchFormatError(f"{where}: {error}") from error
    _check_whole(provenance, rows, header, where)
    try:
        seal = Seal.read(meta, meta["tensors"], header.tensors, where)
    except CheckpointError as error:
        raise PatchFormatError(str(error)) from error
    dense = check_layout(header, rows, kind, where)
    has_base = any(name.startswith("base.") for name in header.tensors)
    return Declaration(kind, rows, provenance, seal, _dense_specs(header, dense), has_base)


def _read_meta(header: Header, where: str) -> dict[str, object]:
    try:
        if set(header.metadata) != {KEY}:
            raise PatchFormatError(f"{where}: not a skill patch (no {KEY!r} in its header, or more than that)")
        meta = parse_json(header.metadata[KEY], where)
    except CheckpointError as error:
        raise PatchFormatError(str(error)) from error
    if type(meta.get("format")) is not int or meta["format"] not in (FORMAT, FORMAT_OF_LINES):
        declared = quote(meta.get("format"))
        known = f"{FORMAT} and {FORMAT_OF_LINES}"
        raise PatchFormatError(f"{where}: format {declared} is not known here; this reads formats {known}")
    if meta.get("kind") not in ("patch", "mask"):
        raise PatchFormatError(f"{where}: kind {quote(meta.get('kind'))} is neither 'patch' nor 'mask'")
    return meta


def _check_codes(rows: tuple[TensorRow, ...], declared: object, where: str) -> None:
    """Refuse codes of lines in a file that calls itself one of format 1, and format 2 without any."""
    row = next((row for row in rows if row.code in LINE_CODES), None)
    if declared == FORMAT and row is not None:
        raise PatchFormatError(f"{where}: tensor {quote(row.name)} has code {row.code!r}, which format {FORMAT} lacks")
    if declared == FORMAT_OF_LINES and row is None:
        raise PatchFormatError(f"{where}: of format {FORMAT_OF_LINES}, and none of its tensors is coded by lines")


def _check_whole(provenance: Provenance, rows: tuple[TensorRow, ...], header: Header, where: str) -> None:
    """Refuse whole tensors and new rows that contradict the rows of the table, or one another."""
    dense = _dense_specs(header, (name for name in header.tensors if name.startswith("dense/")))
    fact = find_contradiction(provenance.grown, {row.name: row.spec for row in rows}, dense)
    if fact:
        raise PatchFormatError(f"{where}: {clip_text(fact)}")


def _dense_specs(header: Header, stored_names: Iterable[str]) -> dict[str, TensorSpec]:
    return {name.removeprefix("dense/"): header.tensors[name].spec for name in sorted(stored_names)}
