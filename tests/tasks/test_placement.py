"""Where a model lies, and activations that are made again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.errors import ConfigError
from graft.localize.localization import localize_skill
from graft.parallel.ranks import Ranks
from graft.specs.localize import LocalizeSpec
from graft.specs.runtime import Runtime
from graft.tasks import head as head_module
from graft.tasks import loading, placement
from graft.tasks.head import open_head, spread_head
from graft.tasks.placement import checkpoint_layers
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task
from tests.checkpoints import bits_of
from tests.models import VERBALIZER, write_task

CONFIG = LocalizeSpec("attribution", budget=300, scope="all", points=2)


def saved_bytes(task: Task, base: Path, gradient_checkpointing: bool) -> int:
    """Bytes that the forward pass keeps for the way back."""
    head, kept = open_head(base, task.spec, runtime=Runtime(gradient_checkpointing=gradient_checkpointing)), [0]

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = head.loss(task.train_examples()[:16])
    loss.backward()  # type: ignore[no-untyped-call]
    return kept[0]


def test_checkpointing_keeps_less_and_changes_no_gradient(base: Path, tuned: Path, task: Task) -> None:
    assert saved_bytes(task, base, True) < 0.7 * saved_bytes(task, base, False)
    masks = [localize_skill(base, tuned, task, CONFIG, gradient_checkpointing=on).mask for on in (False, True)]
    assert masks[0] == masks[1]


def test_checkpointing_trains_to_the_same_bits(base: Path, task: Task, tmp_path: Path) -> None:
    folders = [tmp_path / str(on) for on in (False, True)]
    for on, folder in enumerate(folders):
        train_task(base, task, folder, gradient_checkpointing=bool(on))
    plain, again = (bits_of(open_head(folder, task.spec).model) for folder in folders)
    assert plain == again
    assert (folders[0] / "config.json").read_text() == (folders[1] / "config.json").read_text()


def test_a_decoders_cache_is_not_filled_twice(causal: Path, tmp_path: Path) -> None:
    task = Task.load(write_task(tmp_path, head=VERBALIZER))
    plain, again = (open_head(causal, task.spec, runtime=Runtime(gradient_checkpointing=on)) for on in (False, True))
    for head in (plain, again):
        head.loss(task.train_examples()[:8]).backward()  # type: ignore[no-untyped-call]
    ids = torch.tensor([[5, 6, 7]])
    again.model(input_ids=ids, use_cache=True).logits.sum().backward()
    assert torch.equal(plain.model(input_ids=ids).logits, again.model(input_ids=ids).logits)
    name = "model.layers.0.mlp.up_proj.weight"
    assert dict(plain.model.named_parameters())[name].grad.norm() > 0


def test_what_has_no_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear has no layers for --gradient-checkpointing"):
        checkpoint_layers(torch.nn.Linear(2, 2))


def test_a_device_map_changes_no_mask(base: Path, tuned: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")
    plain = localize_skill(base, tuned, task, CONFIG).mask
    assert open_head(base, task.spec, runtime=Runtime(device="auto-map")).model.hf_device_map == {"": "cpu"}
    parts = {"embeddings": "cpu", "encoder": "cpu", "pooler": "cpu"}
    monkeypatch.setattr(accelerate, "infer_auto_device_map", lambda *_, **__: parts)
    dispatch = accelerate.dispatch_model
    monkeypatch.setattr(accelerate, "dispatch_model", lambda model, places: dispatch(model, places, force_hooks=True))
    assert open_head(base, task.spec, runtime=Runtime(device="auto-map")).model.hf_device_map == parts
    assert localize_skill(base, tuned, task, CONFIG, device="auto-map").mask == plain


@pytest.mark.parametrize("places", [{"a": 0, "b": "cpu"}, {"a": 0, "b": "disk"}])
def test_a_model_that_would_be_swapped_in_and_out_is_refused(
    places: dict[str, object], base: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setattr(accelerate, "infer_auto_device_map", lambda *_, **__: places)
    with pytest.raises(ConfigError, match="does not fit the GPUs here"):
        open_head(base, task.spec, runtime=Runtime(device="auto-map"))


@pytest.mark.parametrize(("dtype", "is_told"), [(torch.float32, False), (torch.bfloat16, True)])
def test_that_products_are_computed_in_fp32_is_told_once_of_a_large_model(
    causal: Path,
    tmp_path: Path,
    dtype: torch.dtype,
    is_told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(placement, "_LARGE", 1)
    monkeypatch.setattr(placement, "multiplies_fast", lambda dtype: dtype is torch.float32)
    monkeypatch.setattr(loading, "_told", set())
    spec = Task.load(write_task(tmp_path, head=VERBALIZER)).spec
    for _ in range(2):
        open_head(causal, spec, runtime=Runtime(dtype=str(dtype).removeprefix("torch.")))
    told = capsys.readouterr().err
    assert told.count("this processor has no products of bfloat16") == is_told
    monkeypatch.setattr(placement, "_LARGE", 10**9)
    monkeypatch.setattr(loading, "_told", set())
    open_head(causal, spec, runtime=Runtime(dtype="bfloat16"))
    assert not capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_is_said_of_products_where_shards_are_loaded_in_host_memory_and_compute_elsewhere(
    device: str, causal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sharded: list[torch.device] = []
    monkeypatch.setattr(placement, "_LARGE", 1)
    monkeypatch.setattr(placement, "multiplies_fast", lambda dtype: dtype is torch.float32)
    monkeypatch.setattr(loading, "_told", set())
    for module in (placement, head_module):
        monkeypatch.setattr(module, "find_device", torch.device)
    monkeypatch.setattr(head_module, "find_ranks", lambda: Ranks(0, 2))
    monkeypatch.setattr(head_module, "shard_weights", lambda model, device, _: sharded.append(device))
    spec = Task.load(write_task(tmp_path, head=VERBALIZER)).spec
    spread_head(causal, spec, Runtime(device=device, dtype="bfloat16", parallel="fsdp"))
    assert sharded == [torch.device(device)]
    assert ("this processor has no products" in capsys.readouterr().err) == (device == "cpu")
