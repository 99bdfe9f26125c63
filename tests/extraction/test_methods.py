"""What each extraction method gives back, and that its bytes are those of a file that holds it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import BudgetError, ConfigError
from graft.extraction import refitted
from graft.extraction.bitdelta import SignedMatrix
from graft.extraction.divergence import mean_divergence
from graft.extraction.extracted import Extracted, count_bytes, count_deflated
from graft.extraction.inputs import ExtractionInput
from graft.extraction.registry import EXTRACTION_METHODS
from graft.extraction.svd import factorize
from graft.extraction.ultradelta import PrunedMatrix, allocate_sparsity
from graft.localize.localization import localize_skill
from graft.patch.format.coding import decode_gaps
from graft.patch.format.writing import patch_bytes
from graft.patch.live import apply_patch
from graft.patch.vertex_cover import largest_rank
from graft.refit.objective import divergences
from graft.specs.extraction import DistillSpec, ExtractSpec
from graft.specs.localize import LocalizeSpec
from graft.tasks.task import Task

CONFIG = ExtractSpec(LocalizeSpec(points=2), lora_rates=(1e-9, 1e-2), distill=DistillSpec(lr=0.1, epochs=3))


@pytest.fixture
def inputs(base: Path, tuned: Path, task: Task, tmp_path: Path) -> ExtractionInput:
    train = dataclasses.replace(task.spec.train, optimizer="adamw")
    adapting = dataclasses.replace(task, spec=dataclasses.replace(task.spec, train=train))
    return ExtractionInput(base, tuned, adapting, CONFIG, tmp_path / "work", others=task)


def extract(inputs: ExtractionInput, method: str, size: float) -> Extracted:
    extracted: Extracted = EXTRACTION_METHODS[method].load()(inputs, size)
    return extracted


def error_of(inputs: ExtractionInput, extracted: Extracted) -> float:
    """The share of the matrices' movement, in L2, that is not given back."""
    missed = whole = 0.0
    for name, delta in inputs.deltas(matrices=True):
        back = torch.zeros(delta.numel())
        if extracted.patch is not None and name in extracted.patch.mask:
            indices = torch.tensor(extracted.patch.mask[name])
            back[indices] = extracted.patch.values[name] - inputs.pair.base.read(name).flatten()[indices]
        missed += float((delta.flatten() - back).square().sum())
        whole += float(delta.square().sum())
    return (missed / whole) ** 0.5


def divergence_on_texts(inputs: ExtractionInput, extracted: Extracted) -> float:
    texts = inputs.task.train_examples()
    wanted, head = inputs.open(inputs.tuned).predict(texts), inputs.open(inputs.base)
    assert extracted.patch is not None
    with apply_patch(head.model, extracted.patch):
        return mean_divergence(wanted.double().numpy(), head.predict(texts).double().numpy())


@pytest.mark.parametrize("method", EXTRACTION_METHODS)
def test_every_method_lands_on_the_base_and_comes_off_again(method: str, inputs: ExtractionInput) -> None:
    entry = EXTRACTION_METHODS[method]
    size = {"density": 0.01, "sparsity": 0.9}.get(entry.unit, entry.sizes[0])
    extracted = extract(inputs, method, size)
    head = inputs.open(inputs.base)
    before = {name: value.clone() for name, value in head.model.state_dict().items()}
    assert extracted.n_bytes > 0
    assert extracted.patch is not None
    with apply_patch(head.model, extracted.patch):
        assert any(not torch.equal(value, before[name]) for name, value in head.model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in head.model.state_dict().items())


def test_larger_sizes_take_more_bytes_and_give_more_back(inputs: ExtractionInput) -> None:
    for method, sizes in {
        "svd": (1, 4, 32),
        "bitdelta": (1, 2, 3),
        "dense": (16, 32),
        "magnitude": (1e-2, 0.3),
    }.items():
        found = [extract(inputs, method, size) for size in sizes]
        errors = [error_of(inputs, item) for item in found]
        assert errors == sorted(errors, reverse=True), method
        assert [item.n_bytes for item in found] == sorted(item.n_bytes for item in found), method
        assert errors[0] < 1, method
    assert error_of(inputs, extract(inputs, "svd", 32)) < 1e-3
    assert error_of(inputs, extract(inputs, "dense", 32)) < 1e-6


def test_a_cut_is_the_patch_that_localize_gives(inputs: ExtractionInput) -> None:
    config = dataclasses.replace(CONFIG.localize, density=0.02, path="straight", exact_scores=True)
    patch = localize_skill(inputs.base, inputs.tuned, inputs.task, config)
    cut = extract(inputs, "cut", 0.02)
    assert cut.patch is not None
    assert cut.patch.mask == patch.mask
    assert cut.n_bytes == len(patch_bytes(patch))


def test_columns_are_whole_and_those_of_the_largest_total(inputs: ExtractionInput) -> None:
    extracted = extract(inputs, "columns", 3)
    assert extracted.patch is not None
    totals, kept = {}, set()
    for name, score in inputs.attribution.table.items():
        shape = inputs.pair.base.spec(name).shape
        if len(shape) == 2:
            totals |= {(name, column): float(total) for column, total in enumerate(score().view(shape).sum(0))}
            columns = extracted.patch.mask[name] % shape[1]
            kept |= {(name, int(column)) for column in columns}
            assert all((columns == column).sum() == shape[0] for column in set(columns))
    assert kept == set(sorted(totals, key=lambda key: -totals[key])[:3])


def test_rows_are_whole_and_the_entries_of_a_rank_fit_it(inputs: ExtractionInput) -> None:
    rows = extract(inputs, "rows", 3)
    assert rows.patch is not None
    assert rows.patch.provenance.method["lines"] == 3
    for name, indices in rows.patch.mask.indices.items():
        n_columns = inputs.pair.base.spec(name).shape[1]
        assert set(np.bincount(indices // n_columns)) <= {0, n_columns}
    free, fitting = extract(inputs, "cut", 0.05), extract(inputs, "rank", 0.05)
    assert free.patch is not None
    assert fitting.patch is not None
    assert largest_rank(free.patch.mask) > 8 >= largest_rank(fitting.patch.mask) > 1
    assert len(free.patch) == len(fitting.patch)


@pytest.mark.parametrize(("method", "size"), [("columns", 3), ("rows", 3), ("rank", 0.02)])
def test_values_are_fitted_on_the_entries_of_a_structure(method: str, size: float, inputs: ExtractionInput) -> None:
    cut, refit = extract(inputs, method, size), extract(inputs, f"refit_{method}", size)
    assert cut.patch is not None
    assert refit.patch is not None
    assert cut.patch.mask == refit.patch.mask
    assert any(not torch.equal(refit.patch.values[name], cut.patch.values[name]) for name in cut.patch.mask)
    assert cut.patch.provenance.has_lines == refit.patch.provenance.has_lines == (method != "rank")


def test_other_texts_are_those_of_the_other_task(inputs: ExtractionInput) -> None:
    texts = []
    for method in ("refit", "refit_other_texts"):
        patch = extract(inputs, method, 1e-2).patch
        assert patch is not None
        assert patch.provenance.refit is not None
        texts.append(patch.provenance.refit["texts"])
    assert inputs.others is not None
    assert [(item["source"], item["n"]) for item in texts] == [
        ("train", len(inputs.task.training_texts())), ("texts", len(inputs.others.training_texts()))
    ]  # fmt: skip


def test_factors_are_the_nearest_of_their_rank() -> None:
    delta = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
    left_over = torch.linalg.svdvals(delta)[3:].square().sum().sqrt()
    a, b = factorize(delta, 3)
    assert (a.dtype, b.dtype, a.shape, b.shape) == (torch.float16, torch.float16, (3, 7), (12, 3))
    assert float((delta - b.float() @ a.float()).norm()) == pytest.approx(float(left_over), rel=1e-3)


def test_a_trained_adapter_is_the_best_on_validation_and_leaves_nothing_behind(inputs: ExtractionInput) -> None:
    extracted = extract(inputs, "lora", 2)
    assert extracted.found["lr"] == 1e-2  # a rate of 1e-9 learns nothing
    assert extracted.found["validation_accuracy"] > 0.65
    assert not list(inputs.folder.iterdir())
    by_svd = extract(inputs, "svd", 2)
    assert extracted.n_bytes <= by_svd.n_bytes  # the pooler, which the task has no use for, learns nothing
    attention = extract(inputs, "lora_qv", 2)
    assert attention.patch is not None
    assert attention.n_bytes < extracted.n_bytes
    assert all("query" in name or "value" in name for name in attention.patch.mask)


def test_an_adapter_is_trained_for_a_model_that_was_pulled_to_the_base(inputs: ExtractionInput) -> None:
    pulled = dataclasses.replace(inputs.task.spec, train=dataclasses.replace(inputs.task.spec.train, l1=1e-4))
    beside = dataclasses.replace(inputs, task=dataclasses.replace(inputs.task, spec=pulled))
    assert extract(beside, "lora", 2).found == extract(inputs, "lora", 2).found


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_signs_are_stored_in_a_bit_each_with_the_nearest_scale(rows: int, columns: int, seed: int) -> None:
    delta = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    part = SignedMatrix.of(delta)
    assert len(part.bits) == -(-rows * columns // 8)
    assert torch.equal(part.signs(), torch.where(delta >= 0, 1.0, -1.0))
    distances = [float((delta - part.signs() * part.scale * factor).norm()) for factor in (0.98, 1.0, 1.02)]
    assert min(distances) == distances[1]


def test_distilled_scales_come_nearer_to_the_tuned_model(inputs: ExtractionInput) -> None:
    plain, distilled = extract(inputs, "bitdelta", 1), extract(inputs, "bitdelta_distilled", 1)
    assert distilled.n_bytes == plain.n_bytes
    assert divergence_on_texts(inputs, plain) > 0.003
    assert divergence_on_texts(inputs, distilled) < 0.8 * divergence_on_texts(inputs, plain)
    assert error_of(inputs, distilled) > error_of(inputs, plain)  # whose scales are nearest in L2
    with pytest.raises(ConfigError, match="bits must be 1, not 2"):
        extract(inputs, "bitdelta_distilled", 2)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 500)), min_size=1, max_size=9), st.floats(0.5, 0.999))
def test_mixed_sparsity_keeps_its_mean_and_spares_what_varies(spreads: list[tuple[float, int]], mean: float) -> None:
    named = {str(i): spread for i, spread in enumerate(spreads)}
    shares = allocate_sparsity(named, mean)
    total = sum(n for _, n in spreads)
    assert sum(shares[name] * n for name, (_, n) in named.items()) / total == pytest.approx(mean, abs=1e-9)
    ordered = [shares[name] for name in sorted(named, key=lambda name: named[name])]
    assert ordered == sorted(ordered, reverse=True)
    assert all(0 <= share <= 1 for share in ordered)


def test_pruned_matrices_keep_their_distribution_and_are_what_is_stored() -> None:
    delta = torch.randn(60, 50, generator=torch.Generator().manual_seed(1))
    part = PrunedMatrix.of(delta, 0.75, 4.0, torch.Generator().manual_seed(0))
    whole = PrunedMatrix.of(delta, 0.0, 1.0, torch.Generator())
    assert len(part.indices) == pytest.approx(0.25 * delta.numel(), rel=0.02)
    counts, kept = (np.bincount(item.codes, minlength=16) for item in (whole, part))
    assert np.abs(kept - 0.25 * counts).max() < 1
    assert (whole.decode() - delta).abs().max() <= (delta.max() - delta.min()) / 15 / 2 + 1e-6
    assert torch.allclose(part.decode().flatten()[part.indices], 4 * whole.decode().flatten()[part.indices])
    stored = part.stored()
    assert np.array_equal(decode_gaps(stored["gaps"].numpy(), len(part.indices), 3000), part.indices)
    nibbles = torch.stack([stored["codes"] // 16, stored["codes"] % 16], 1).flatten()[: len(part.codes)]
    assert torch.equal(nibbles, part.codes)


def test_what_repeats_deflates_and_noise_does_not() -> None:
    noise = torch.randint(0, 256, (4000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert count_deflated({"noise": noise}) > 0.95 * count_bytes({"noise": noise})
    steady = {"small": 1e-3 + 1e-4 * torch.rand(4000)}  # one exponent
    assert count_deflated(steady) < 0.9 * count_bytes(steady)


def test_divergence_is_kl_and_ignores_labels_that_a_row_lacks() -> None:
    p, q = torch.tensor([[2.0, 0.0, -torch.inf], [1.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.0, -torch.inf], [1, 1, 1]])
    expected = torch.nn.functional.kl_div(
        q[0, :2].log_softmax(0), p[0, :2].log_softmax(0), log_target=True, reduction="sum"
    )
    assert divergences(p, q).tolist() == pytest.approx([float(expected), 0.0])
    assert mean_divergence(p.double().numpy(), p.double().numpy()) == 0
    q.requires_grad_(True)
    divergences(p, q).sum().backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()


def test_pruning_keeps_the_value_of_rare_codes_on_average() -> None:
    delta = torch.zeros(64, 64)
    delta[0, :20], delta[1, :20] = 1.0, -1.0  # 20 entries a code, of which a share of 1 % is a fifth of an entry
    total, share = torch.zeros(64, 64), 0.99
    for seed in range(300):
        part = PrunedMatrix.of(delta, share, 1 / (1 - share), torch.Generator().manual_seed(seed))
        again = PrunedMatrix.of(delta, share, 1 / (1 - share), torch.Generator().manual_seed(seed))
        assert torch.equal(part.indices, again.indices)
        total += part.decode() / 300
    assert float(total[0, :20].mean()) == pytest.approx(1, abs=0.4)
    assert float(total[1, :20].mean()) == pytest.approx(-1, abs=0.4)


def test_fewer_texts_take_the_steps_of_the_refit_that_they_are_held_against(
    inputs: ExtractionInput, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(refitted, "extract_refit", lambda inputs, density, **changes: asked.append(changes))
    n_all, own = len(inputs.task.training_texts()), inputs.config.refit
    assert n_all < own.texts  # so that the refit itself fits to all there are
    extract(inputs, "refit_texts", n_all)
    extract(inputs, "refit_texts", n_all / 2)
    assert asked == [{"texts": n_all, "epochs": own.epochs}, {"texts": n_all // 2, "epochs": 2 * own.epochs}]
    with pytest.raises(BudgetError, match=f"4,000 texts to fit to, and the training split has {n_all}"):
        extract(inputs, "refit_texts", 4000)
