"""The same live model: a prepared patch beside PEFT's LoRA and SHiRA, merged into the weights and taken out again."""

from __future__ import annotations

from typing import Any

import peft
import torch

import graft
from tests.benchmarks.live import count_changed, draw_patch, make_llama, restore_weights
from tests.benchmarks.timing import time_in_turn

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def measure(device: str = "cpu", runs: int = 2, layers: int = 22) -> list[dict[str, object]]:
    """One row per method: milliseconds on and off, both as a multiple of ours at 1e-4, weights changed at the end."""
    model = make_llama(device, layers)
    prepared, in_force = graft.prepare_patch(model, draw_patch(model, 1e-4)), []
    times = time_in_turn(
        [("on", lambda: in_force.append(prepared.apply())), ("off", lambda: in_force.pop().revert())], 20, device
    )
    rows = [_row("patch, 1e-4, prepared", times, count_changed(model))]
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules=LINEAR, init_lora_weights=False)
    shira = peft.ShiraConfig(r=1, target_modules=LINEAR, random_seed=0, init_weights=False)
    rows += [
        _measure(model, "PEFT LoRA r16, all linear layers", lora, device, runs),
        _measure(model, "PEFT SHiRA r1, all linear layers", shira, device, runs),
    ]
    ours = float(rows[0]["both, ms"])  # type: ignore[arg-type]
    return [row | {"× ours": round(float(row["both, ms"]) / ours, 1)} for row in rows]  # type: ignore[arg-type]


def _measure(model: torch.nn.Module, name: str, config: Any, device: str, runs: int) -> dict[str, object]:
    adapted = peft.get_peft_model(model, config)  # type: ignore[arg-type]
    steps = [("on", adapted.merge_adapter), ("off", adapted.unmerge_adapter)]
    times = time_in_turn(steps, runs, device)  # type: ignore[arg-type]
    plain = adapted.unload()
    changed = count_changed(plain)
    restore_weights(plain)
    return _row(name, times, changed)


def _row(name: str, times: dict[str, float], changed: int) -> dict[str, object]:
    on, off = times["on"], times["off"]
    row: dict[str, object] = {"method": name, "on, ms": round(on, 2), "off, ms": round(off, 2)}
    return row | {"both, ms": round(on + off, 2), "weights changed after undo": changed}
