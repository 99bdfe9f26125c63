"""Remote headers: those of patches and models on the Hub, read by range requests before anything large is fetched."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import CheckpointError, HubError, PatchFormatError
from graft.files.header import MAX_HEADER, Header, parse_header, read_header
from graft.files.hub_failures import explain_failure, failures
from graft.files.location import fetch_file, locate_patch
from graft.files.tensor_spec import TensorSpec
from graft.files.weight_index import INDEX, SINGLE, read_index
from graft.patch.compatibility import Compatibility, check_specs
from graft.patch.format.declaration import FILE_NAME, MAX_PATCH_HEADER, read_declaration
from graft.patch.summary import Outline, describe_outline
from graft.tensors.architecture import name_map_of, quantization_of, read_architecture
from graft.tensors.tied_names import TiedNames

FIRST = 100_000  # bytes asked for at once: nearly every header lies within


@dataclass(frozen=True)
class RemoteHeader:
    """The header of a published patch.

    Attributes:
        outline: its content.
        n_bytes: size of the whole file.
        revision: the commit that it was read from, where the Hub named one.
        integrity: what the header alone tells of its hashes.
    """

    outline: Outline
    n_bytes: int
    revision: str | None
    integrity: str


@dataclass(frozen=True)
class _Part:
    """Bytes of a remote file: the first of them, the size of the whole, the commit."""

    data: bytes
    total: int
    commit: str | None


class RemoteListing:
    """Names, dtypes and shapes of a model on the Hub, and what its config says of names."""

    def __init__(self, specs: Mapping[str, TensorSpec], folder: Path | None) -> None:
        architecture = read_architecture(folder) if folder else None
        self.specs = specs
        self.names = tuple(sorted(specs))
        self.can_resize = True
        self.name_map = name_map_of(architecture)
        self._tied = architecture.tied if architecture else TiedNames()

    def spec(self, name: str) -> TensorSpec:
        """Return dtype and shape of a tensor."""
        return self.specs[name]

    def owner(self, name: str) -> str:
        """Name the first listed of the group of tied ones."""
        return self._tied.owner(name, self.specs)


def read_remote_patch(reference: str) -> RemoteHeader:
    """Read the header of a published patch, and nothing more of it.

    A cached copy of a pinned commit is read instead; so is any cached copy where the Hub cannot be reached.

    Raises:
        HubError: it cannot be had.
        PatchFormatError: it is not a patch.
    """
    repository, _, revision = reference.partition("@")
    cached = _cached(repository, revision)
    try:
        if cached is not None:
            return _summarize(read_header(cached, MAX_PATCH_HEADER), cached.stat().st_size, reference, revision)
        header, total, commit = read_remote_header(repository, FILE_NAME, revision or None, MAX_PATCH_HEADER)
    except CheckpointError as error:
        raise PatchFormatError(str(error)) from error
    except HubError:
        path = locate_patch(reference, FILE_NAME).path  # offline: what is in the cache, or the reason
        return _summarize(read_header(path, MAX_PATCH_HEADER), path.stat().st_size, reference, None)
    return _summarize(header, total, reference, commit)


def read_remote_base(reference: str) -> RemoteListing:
    """Read the headers of a model on the Hub: config, index, and the head of each shard.

    Raises:
        HubError: it cannot be had.
        CheckpointError: it is quantized, or holds no safetensors.
    """
    repository, _, revision = reference.partition("@")
    try:
        folder = fetch_file(reference, "config.json").path.parent
    except HubError:
        folder = None
    if folder is not None and (method := quantization_of(folder)) is not None:
        raise CheckpointError(f"{reference}: quantized ({method}); use the unquantized checkpoint it was made from")
    specs: dict[str, TensorSpec] = {}
    for shard in _shards(reference):
        header, _, _ = read_remote_header(repository, shard, revision or None, MAX_HEADER)
        specs |= {name: stored.spec for name, stored in header.tensors.items()}
    return RemoteListing(specs, folder)


def describe_remote(reference: str) -> dict[str, Any]:
    """Return what `graft inspect --json` says of a published patch, by its header; raise as `read_remote_patch`."""
    remote = read_remote_patch(reference)
    return describe_outline(remote.outline, remote.n_bytes) | {"integrity": remote.integrity}


def check_headers(outline: Outline, listing: Any) -> Compatibility:
    """Compare a patch with a model by names, shapes and dtypes; values are not compared."""
    specs = {name: spec for name, (spec, _) in outline.entries.items()}
    whole = {name: spec.shape for name, spec in outline.dense.items()}
    origin = outline.provenance
    return check_specs(specs, whole, origin.tied, listing, grown=origin.grown)


def read_remote_header(
    repository: str, filename: str, revision: str | None, limit: int
) -> tuple[Header, int, str | None]:
    """Read the header of a safetensors file on the Hub, the size of the file, and the commit.

    Raises:
        HubError: the Hub refused, or could not be reached.
        CheckpointError: the header is junk, or contradicts the file's size.
    """
    where = f"{repository}/{filename}"
    part = _read(repository, filename, revision, FIRST)
    length = struct.unpack("<Q", part.data[:8])[0] if len(part.data) >= 8 else -1
    if not 2 <= length <= min(limit, part.total - 8):
        raise CheckpointError(f"{where}: not a safetensors file, or cut short ({part.total:,} bytes)")
    if 8 + length > len(part.data):
        part = _read(repository, filename, part.commit or revision, 8 + length)
    if 8 + length > len(part.data):
        raise HubError(f"{where}: came cut short: try again")
    return parse_header(part.data[8 : 8 + length], part.total, where), part.total, part.commit


def _read(repository: str, filename: str, revision: str | None, n_bytes: int) -> _Part:
    """Read the first bytes of a file; a server that knows no ranges is hung up on once they are there."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    headers = {**build_hf_headers(), "Range": f"bytes=0-{n_bytes - 1}", "Accept-Encoding": "identity"}
    try:
        url = hf_hub_url(repository, filename, revision=revision)
        with http_stream_backoff("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
            hf_raise_for_status(response)
            data = bytearray()
            for chunk in response.iter_bytes(65_536):
                data += chunk
                if len(data) >= n_bytes:
                    break
            commits = (step.headers.get("X-Repo-Commit") for step in (*response.history, response))
            size = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers["Content-Length"]
            return _Part(bytes(data[:n_bytes]), int(size), next(filter(None, commits), None))
    except RemoteEntryNotFoundError as error:
        raise HubError(f"{repository} holds no {filename}") from error
    except failures() as error:
        raise HubError(explain_failure(error, repository, revision)) from error


def _summarize(header: Header, total: int, where: str, revision: str | None) -> RemoteHeader:
    declared = read_declaration(header, where)
    entries = {row.name: (row.spec, row.k) for row in declared.rows}
    outline = Outline(declared.kind, entries, declared.dense, declared.has_base, declared.provenance)
    return RemoteHeader(outline, total, revision or None, declared.seal.table_verdict)


def _cached(repository: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if len(revision) != 40:
        return None
    try:
        found = try_to_load_from_cache(repository, FILE_NAME, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _shards(reference: str) -> list[str]:
    try:
        index = fetch_file(reference, INDEX).path
    except HubError:
        return [SINGLE]
    return sorted(set(read_index(index).values()))
