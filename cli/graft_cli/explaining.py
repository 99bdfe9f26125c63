"""What input, device, memory, disk or installation made of a command, unforeseen: one line for a person."""

from __future__ import annotations

import sys
from collections.abc import Callable

LONGEST = 300  # characters of another library's words
_DEVICE = ("cuda", "cudnn", "cublas", "nvidia", "hip error", "mps ", "xpu", "meta tensor", "accelerator", "backend")
_DISK = ("no space left", "disk quota", "read-only file system", "input/output error", "inline_container", "os error")
_SYSTEM = ("can't start new thread", "resource temporarily unavailable", "too many open files", "home directory")
_NUMBER = ("overflow", "too large", "too big")


def explain_failure(error: BaseException) -> str | None:
    """One line; None where it can only be a bug."""
    for explain in (_memory, _system, _text, _number, _library):
        if (line := explain(error)) is not None:
            return line
    return None


def words_of(error: BaseException) -> str:
    """What an error says, on one line and not without end."""
    said = " ".join(str(error).split())
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."


def _memory(error: BaseException) -> str | None:
    torch = "torch" in sys.modules
    if isinstance(error, MemoryError) or (torch and _is_out_of_memory()(error)):
        return "out of memory: lower --batch-size, or use a smaller model"
    return None


def _is_out_of_memory() -> Callable[[BaseException], bool]:
    from graft.tensors.out_of_memory import is_out_of_memory

    return is_out_of_memory


def _system(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror or words_of(error)}"
    if isinstance(error, ImportError):
        return f"the installation lacks something, or it is broken: {words_of(error)}"
    return words_of(error) if _says(error, _SYSTEM) or _says(error, _DISK) else None


def _text(error: BaseException) -> str | None:
    if isinstance(error, UnicodeError):
        return f"a text or name holds characters that cannot be written or read ({words_of(error)})"
    if isinstance(error, RecursionError):
        return "an input is nested too deeply to be read"
    return "a path holds a NUL character" if _says(error, ("embedded null",)) else None


def _number(error: BaseException) -> str | None:
    if isinstance(error, OverflowError) or (isinstance(error, (RuntimeError, ValueError)) and _says(error, _NUMBER)):
        return f"a number is too large ({words_of(error)})"
    return None


def _library(error: BaseException) -> str | None:
    """Of a device, a process group, or a file that changed while it was read."""
    home = type(error).__module__.partition(".")[0]
    if home in ("safetensors", "safetensors_rust", "pyarrow", "zipfile", "huggingface_hub", "httpx", "requests"):
        return f"{home.removesuffix('_rust')}: {words_of(error)}"
    if type(error).__name__ in ("AcceleratorError", "DistBackendError", "DistNetworkError", "DistStoreError"):
        return words_of(error)
    of_torch = isinstance(error, (RuntimeError, NotImplementedError, AssertionError))
    return f"the device cannot do this ({words_of(error)})" if of_torch and _says(error, _DEVICE) else None


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    said = str(error).lower()
    return any(word in said for word in words)
