"""An adapter as a model: the very folder that PEFT's merge_and_unload saves, for every command that reads one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel, ShiraConfig, get_peft_model
from peft.helpers import rescale_adapter_scale
from peft.tuners.lora import LoraLayer
from peft.tuners.shira.layer import ShiraLayer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from graft.errors import CheckpointError, ConfigError, MismatchError
from graft.evaluate.comparison import evaluate_against
from graft.evaluate.curve import measure_curve
from graft.evaluate.evaluation import evaluate_task
from graft.localize.diff import diff_checkpoints
from graft.localize.localization import localize_skill
from graft.localize.pair_notes import describe_differences
from graft.patch.format.writing import patch_bytes
from graft.sources.opening import open_model
from graft.specs.localize import LocalizeSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import digest_of
from tests.checkpoints import bits_of, save_model
from tests.interop.test_lora_kinds import EQUAL, REFUSED, adapted
from tests.models import MOODS, bert_tokenizer, toy_examples, write_task

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # PEFT's own, of ties and of embeddings saved along
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", EQUAL)
def test_its_tensors_are_those_of_the_merged_folder(kind: str, tied: bool, tmp_path: Path) -> None:
    dtype = torch.bfloat16 if len(kind) % 2 else torch.float32
    adapted(kind, EQUAL[kind], tmp_path, tied=tied, dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype)
    live = PeftModel.from_pretrained(model, tmp_path / "adapter")
    before = bits_of(live)
    digest = digest_of(open_model(live).checkpoint)
    assert bits_of(live) == before
    save_model(live.merge_and_unload(), tmp_path / "merged")
    merged = Checkpoint.open(tmp_path / "merged")
    opened = open_model(tmp_path / "adapter", base=tmp_path / "base").checkpoint
    assert opened.parameters == merged.parameters
    assert digest_of(opened) == digest_of(merged) == digest
    assert digest != digest_of(Checkpoint.open(tmp_path / "base"))  # the control


@pytest.mark.parametrize("kind", ["DoRA", "PiSSA"])
def test_other_arithmetic_is_refused(kind: str, tmp_path: Path) -> None:
    how, fact = REFUSED[kind]
    adapted(kind, how, tmp_path, tied=False, dtype=torch.float32)
    with pytest.raises(CheckpointError, match=fact):
        open_model(tmp_path / "adapter", base=tmp_path / "base")


class Moods:
    """A base, an adapter with a classifier that was trained on it, and the folder that PEFT makes of both."""

    def __init__(self, base: Path, folder: Path, kind: str) -> None:
        torch.manual_seed(1)
        self.base, self.adapter, self.merged = base, folder / "adapter", folder / "merged"
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        more: dict[str, Any] = {"target_modules": ["query", "intermediate.dense"], "task_type": "SEQ_CLS", "r": 4}
        config = LoraConfig(lora_alpha=16, **more) if kind == "LORA" else ShiraConfig(init_weights=False, **more)
        config.modules_to_save = ["pooler.dense", "classifier"]
        self.live = get_peft_model(model, config)
        self._train(toy_examples(64))
        model.config.problem_type = None  # which the loss wrote down
        self.live.save_pretrained(self.adapter)
        fresh = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        merged = PeftModel.from_pretrained(fresh, self.adapter).merge_and_unload()
        merged.save_pretrained(self.merged)
        bert_tokenizer().save_pretrained(self.merged)
        self.task = Task.load(write_task(folder / "task", labels=list(MOODS), head={"kind": "classifier"}))

    def _train(self, examples: Any) -> None:
        tokenizer = bert_tokenizer()
        optimizer = torch.optim.AdamW([p for p in self.live.parameters() if p.requires_grad], lr=1e-2)
        for start in range(0, len(examples), 16):
            batch = examples[start : start + 16]
            inputs = tokenizer([example.texts[0] for example in batch], padding=True, return_tensors="pt")
            self.live(**inputs, labels=torch.tensor([example.label for example in batch])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()


@pytest.fixture(params=["LORA", "SHIRA"])
def moods(request: pytest.FixtureRequest, base: Path, tmp_path: Path) -> Moods:
    return Moods(base, tmp_path, request.param)


def test_every_command_takes_it_for_the_merged_folder(moods: Moods) -> None:
    base, task = moods.base, moods.task
    for tuned in (moods.adapter, moods.live):
        assert patch_bytes(diff_checkpoints(base, tuned)) == patch_bytes(diff_checkpoints(base, moods.merged))
        config = LocalizeSpec("attribution", budget=300, points=2)
        patches = [patch_bytes(localize_skill(base, model, task, config)) for model in (tuned, moods.merged)]
        assert patches[0] == patches[1]
    wanted = evaluate_task(moods.merged, task)
    random = evaluate_task(base, task)  # a head drawn at random: the control
    assert random["nll"] != wanted["nll"]
    for report in (
        evaluate_task(moods.adapter, task),
        evaluate_task(moods.adapter, task, adapter_base=base),
        evaluate_task(moods.live, task),
        evaluate_task(moods.live, task, tokenizer=bert_tokenizer()),
    ):
        assert report.to_json() == wanted.to_json()
    curves = [
        measure_curve(base, tuned, task, LocalizeSpec(points=1), densities=[0.01])
        for tuned in (moods.adapter, moods.merged)
    ]
    assert curves[0] == curves[1]


def test_a_teacher_is_opened_by_its_folder(moods: Moods) -> None:
    examples = toy_examples(8)
    found, wanted = (open_head(path, moods.task.spec).predict(examples) for path in (moods.adapter, moods.merged))
    assert torch.equal(found, wanted)


def test_the_tuned_model_of_a_comparison_may_be_one(base: Path, tmp_path: Path) -> None:
    moods = Moods(base, tmp_path, "LORA")
    reports = [evaluate_against(moods.merged, tuned, moods.task) for tuned in (moods.adapter, moods.merged)]
    assert reports[0].agreement == reports[1].agreement == 1.0


def rename_base(adapter: Path, name: str | None) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": name}))


def test_its_base_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    adapted("q", {"target_modules": ["q_proj"]}, tmp_path, tied=False, dtype=torch.float32)
    adapter, base, other = tmp_path / "adapter", tmp_path / "base", tmp_path / "other"
    model = AutoModelForCausalLM.from_pretrained(base)
    save_model(model, tmp_path / "copy")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    save_model(model, other)
    assert len(diff_checkpoints(base, adapter)) > 0  # by the name in its config
    assert len(diff_checkpoints(tmp_path / "copy", adapter)) > 0  # by values, under another name
    with pytest.raises(MismatchError, match=r"up_proj.weight' is another than in other"):
        diff_checkpoints(other, adapter)
    assert not describe_differences(base, adapter, "all", whole=True).notes
    for name in ("nobody/nothing", "/elsewhere/base", None):
        rename_base(adapter, name)
        assert "names and shapes alone" in describe_differences(other, adapter, "all", whole=True).notes[0]
        with pytest.raises(CheckpointError, match="--base"):
            open_model(adapter)


def test_a_base_is_asked_for_only_where_there_is_an_adapter(base: Path, task: Task) -> None:
    with pytest.raises(ConfigError, match="no adapter"):
        evaluate_task(base, task, adapter_base=base)


def test_what_another_base_lacks_is_named(base: Path, tmp_path: Path) -> None:
    adapted("q", {"target_modules": ["q_proj"]}, tmp_path, tied=False, dtype=torch.float32)
    rename_base(tmp_path / "adapter", None)
    with pytest.raises(MismatchError, match="q_proj"):
        diff_checkpoints(base, tmp_path / "adapter")


def test_a_head_that_was_not_saved_is_refused(base: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    config = LoraConfig(target_modules=["query"], r=2)  # without a task type PEFT leaves the head out
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="lacks the tensor 'classifier"):
        open_model(tmp_path / "adapter", base=base)


def test_a_live_adapter_in_another_state_is_refused(tmp_path: Path) -> None:
    adapted("q", {"target_modules": ["q_proj"]}, tmp_path, tied=False, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    live = PeftModel.from_pretrained(model, tmp_path / "adapter")
    live.merge_adapter()
    with pytest.raises(CheckpointError, match="unmerge_adapter"):
        open_model(live)


@pytest.mark.parametrize("kind", ["q", "head"])
def test_a_live_adapter_that_is_disabled_is_its_base(kind: str, tmp_path: Path) -> None:
    more = {"q": {"target_modules": ["q_proj"]}, "head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}}
    adapted("q", more[kind], tmp_path, tied=False, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    live = PeftModel.from_pretrained(model, tmp_path / "adapter")
    base, merged = digest_of(Checkpoint.open(tmp_path / "base")), digest_of(open_model(live).checkpoint)
    with live.disable_adapter():
        assert digest_of(open_model(live).checkpoint) == base != merged
    assert digest_of(open_model(live).checkpoint) == merged
    layers = [module for module in live.modules() if isinstance(module, LoraLayer)]
    layers[0].enable_adapters(False)
    with pytest.raises(CheckpointError, match="disabled in some layers alone"):
        open_model(live)


@pytest.mark.parametrize("rank_stabilized", [True, False])
def test_a_live_adapter_that_was_scaled_by_hand_is_refused(rank_stabilized: bool, tmp_path: Path) -> None:
    adapted(
        "q", {"target_modules": ["q_proj"], "use_rslora": rank_stabilized}, tmp_path, tied=False, dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    live = PeftModel.from_pretrained(model, tmp_path / "adapter")
    merged = digest_of(open_model(live).checkpoint)
    with rescale_adapter_scale(live, 0.5), pytest.raises(CheckpointError, match="its config gives"):
        open_model(live)
    assert digest_of(open_model(live).checkpoint) == merged


def test_so_is_a_live_shira(base: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    live = get_peft_model(model, ShiraConfig(target_modules=["query"], r=2, init_weights=False))
    open_model(live)
    next(module for module in live.modules() if isinstance(module, ShiraLayer)).set_scale("default", 2.0)
    with pytest.raises(CheckpointError, match=r"has the scale 2 at .*, and its config gives 1:"):
        open_model(live)


def test_a_live_adapter_of_another_kind_is_refused_as_such_whatever_its_scale(base: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    with pytest.raises(CheckpointError, match="of type 'LOHA', not LORA or SHIRA"):
        open_model(get_peft_model(model, LoHaConfig(target_modules=["query"], r=4, alpha=8)))
