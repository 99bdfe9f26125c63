"""Explain failures of input, device, memory, disk or installation that no check foresaw, in one line for a person."""

from __future__ import annotations

import sys
from collections.abc import Callable

LONGEST = 300  # characters of another library's message
_DEVICE = ("cuda", "cudnn", "cublas", "nvidia", "hip error", "mps ", "xpu", "meta tensor", "accelerator", "backend")
_DISK = ("no space left", "disk quota", "read-only file system", "input/output error", "inline_container", "os error")
_SYSTEM = ("can't start new thread", "resource temporarily unavailable", "too many open files", "home directory")
_NUMBER = ("overflow", "too large", "too big")


def explain_failure(error: BaseException) -> str | None:
    """Explain an error in one line; None where it can only be a bug."""
    for explain in (_memory, _system, _text, _number, _of_library):
        if (line := explain(error)) is not None:
            return line
    return None


def shorten_message(error: BaseException) -> str:
    """Return an error's message on one line, cut off where it goes on and on."""
    message = " ".join(str(error).split())
    return message if len(message) <= LONGEST else f"{message[:LONGEST]}..."


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
        prefix = f"{error.filename}: " if error.filename is not None else ""
        return f"{prefix}{error.strerror or shorten_message(error)}"
    if isinstance(error, ImportError):
        return f"the installation lacks something, or it is broken: {shorten_message(error)}"
    return shorten_message(error) if _mentions(error, _SYSTEM) or _mentions(error, _DISK) else None


def _text(error: BaseException) -> str | None:
    if isinstance(error, UnicodeError):
        return f"a text or name holds characters that cannot be written or read ({shorten_message(error)})"
    if isinstance(error, RecursionError):
        return "an input is nested too deeply to be read"
    return "a path holds a NUL character" if _mentions(error, ("embedded null",)) else None


def _number(error: BaseException) -> str | None:
    if isinstance(error, OverflowError) or (
        isinstance(error, (RuntimeError, ValueError)) and _mentions(error, _NUMBER)
    ):
        return f"a number is too large ({shorten_message(error)})"
    return None


def _of_library(error: BaseException) -> str | None:
    """Explain errors of a device, a process group, or a file that changed while it was read."""
    package = type(error).__module__.partition(".")[0]
    if package in ("safetensors", "safetensors_rust", "pyarrow", "zipfile", "huggingface_hub", "httpx", "requests"):
        return f"{package.removesuffix('_rust')}: {shorten_message(error)}"
    if type(error).__name__ in ("AcceleratorError", "DistBackendError", "DistNetworkError", "DistStoreError"):
        return shorten_message(error)
    is_torch = isinstance(error, (RuntimeError, NotImplementedError, AssertionError))
    return f"the device cannot do this ({shorten_message(error)})" if is_torch and _mentions(error, _DEVICE) else None


def _mentions(error: BaseException, phrases: tuple[str, ...]) -> bool:
    message = str(error).lower()
    return any(phrase in message for phrase in phrases)
