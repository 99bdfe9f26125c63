"""MemoryPlan: the bytes that each part of some work will take, in memory or on disk, beside what is free."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

Place = Literal["host", "device", "disk"]
_PLACES: tuple[Place, ...] = ("device", "host", "disk")


@dataclass(frozen=True)
class Allocation:
    """Memory for one purpose, or disk space for one output.

    Attributes:
        what: the purpose, for a person.
        bytes: the most that it takes; None where that is unknown beforehand.
        place: the host's memory, the device's (the host's too when computing on the CPU), or the disk.
    """

    what: str
    bytes: int | None
    place: Place = "device"


@dataclass(frozen=True)
class MemoryPlan:
    """Memory and disk that some work takes beyond the imported interpreter; pages of mapped files do not count.

    Attributes:
        device: where it computes, such as "cpu" or "cuda:0".
        parts: the allocations, purpose by purpose.
        available: place -> bytes that are free now; a place that cannot be queried is left out.
        reads: bytes of files that are read; None where they were not counted.
    """

    device: str
    parts: tuple[Allocation, ...]
    available: dict[Place, int]
    reads: int | None = None

    @classmethod
    def of(
        cls, device: torch.device, parts: list[Allocation], *, reads: int | None = None, out: Path | None = None
    ) -> MemoryPlan:
        """Compare parts on a device with what is free there now and, if there is an output, on its disk."""
        if device.type == "cpu":
            parts = [dataclasses.replace(part, place="host") if part.place == "device" else part for part in parts]
        queried: dict[Place, torch.device] = {"host": torch.device("cpu"), "device": device}
        free = {
            place: free_memory(source) for place, source in queried.items() if device.type != "cpu" or place == "host"
        }
        free |= {} if out is None else {"disk": free_disk(out)}
        parts = [part for part in parts if part.bytes != 0]
        return cls(str(device), tuple(parts), {place: size for place, size in free.items() if size is not None}, reads)

    def total(self, place: Place) -> int:
        """Return the bytes of all parts in one place, as far as they are known."""
        return sum(part.bytes or 0 for part in self.parts if part.place == place)

    @property
    def fits(self) -> bool:
        """True where every place that could be queried has enough."""
        return all(self.total(place) <= size for place, size in self.available.items())

    def to_json(self) -> dict[str, Any]:
        """Return parts, totals, bytes to read and free bytes."""
        reads = {} if self.reads is None else {"reads": self.reads}
        return {
            "device": self.device,
            "parts": [{"what": part.what, "bytes": part.bytes, "place": part.place} for part in self.parts],
            "total": {place: self.total(place) for place in _PLACES if self.total(place)},
            **reads,
            "available": dict(self.available),
            "fits": self.fits,
        }

    def lines(self) -> list[str]:
        """Return the plan as lines for a person."""
        rows = [*self.parts, *(Allocation("total", self.total(place), place) for place in _PLACES if self.total(place))]
        width = max(len(part.what) for part in rows)
        lines = [f"{part.what:<{width}}  {format_bytes(part.bytes):>10}  {self._describe(part.place)}" for part in rows]
        if self.reads is not None:
            lines.append(f"{'to read':<{width}}  {format_bytes(self.reads):>10}  files")
        free = ", ".join(
            f"{format_bytes(size)} {'on' if place == 'disk' else 'in'} {self._describe(place)}"
            for place, size in self.available.items()
        )
        verdict = "it fits" if self.fits else "it does not fit"
        return [*lines, f"free now: {free}: {verdict}" if free else "what is free cannot be asked here"]

    def _describe(self, place: Place) -> str:
        return {"host": "host memory", "device": self.device, "disk": "disk"}[place]


def format_bytes(size: int | None) -> str:
    """Format a number of bytes for a person, with three digits."""
    if size is None:
        return "unknown"
    value, unit = float(size), 0
    while value >= 999.5 and unit < 4:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device now; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), None)


def free_disk(out: Path) -> int:
    """Return the bytes that are free on the disk of an output."""
    return shutil.disk_usage(next(parent for parent in (out, *out.absolute().parents) if parent.exists())).free
