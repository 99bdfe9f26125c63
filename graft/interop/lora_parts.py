"""Parts of a LoRA adapter that hold a patch's tensors: each tensor goes where PEFT keeps it exactly, or nowhere.

Weights of linear layers (and of the Conv1D layers of transformers' GPT-2, which store them transposed) become factors;
these layers' biases the bias that PEFT allows the second factor (`lora_bias`); rows of an embedding whole rows
(`trainable_token_indices`, which also follow a tied output layer); norms, and the modules of a head that the base
lacks, whole modules (`modules_to_save`). With such a head the names are those of the model that has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch

from graft.errors import ConfigError
from graft.interop.export_source import ExportSource
from graft.patch.vertex_cover import Cover, cover_entries
from graft.tensors.architecture import architecture_of
from graft.tensors.names import NameMap
from graft.tensors.tied_names import TiedNames
from graft.tensors.transposed import is_conv1d

ADDABLE = ("F32", "BF16", "F16", "F64")
_WHOLE = "a whole tensor that the base lacks, of no module of a known head that the patch brings all of"
_OTHER = "neither of a layer that PEFT adapts nor of a norm, or of one whose name ends others' names"


@dataclass(frozen=True, eq=False)
class _Live:
    """The live model's modules, tied names, name map, and input embedding."""

    modules: Mapping[str, torch.nn.Module]
    tied: TiedNames
    name_map: NameMap
    inputs: torch.nn.Module | None

    @classmethod
    def of(cls, model: torch.nn.Module) -> _Live:
        """Read them off a live model."""
        try:
            inputs = model.get_input_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError):  # a model that does not embed tokens
            inputs = None
        architecture = architecture_of(model)
        modules = dict(model.named_modules(remove_duplicate=False))
        return cls(modules, architecture.tied, architecture.name_map, inputs)

    @property
    def parameters(self) -> list[str]:
        """Names of all parameters, tied ones under each name."""
        names = ((path, leaf) for path, module in self.modules.items() for leaf in module._parameters)
        return [f"{path}.{leaf}" if path else leaf for path, leaf in names]

    def parameters_of(self, path: str) -> list[str]:
        """Return the names of a module's own parameters; one that it could have and has not is none."""
        return [f"{path}.{leaf}" for leaf, value in self.modules[path]._parameters.items() if value is not None]

    def group_of(self, name: str) -> frozenset[str]:
        """Return the names of a parameter's storage; of a bias, those of the weight beside it."""
        path, _, leaf = name.rpartition(".")
        return self.tied.group_of(f"{path}.weight" if leaf == "bias" else name)

    def is_unmistakable(self, path: str) -> bool:
        """Return whether PEFT, which goes by the ends of names, takes this module alone."""
        return sum(other.endswith(path) for other in self.modules) == 1


@dataclass(frozen=True, eq=False)
class LoraParts:
    """A patch's tensors by the part of an adapter that holds each, as name -> the live model's module.

    Attributes:
        source: the patch and its base.
        weights: of linear layers, to become factors.
        biases: of linear layers.
        tokens: embeddings, of which rows are kept whole.
        norms: tensors of modules that are kept whole.
        heads: whole tensors of a head that the base lacks, of modules that are kept whole too.
        idle: a linear layer with factors of zeros, where the patch changes none, since PEFT wants one.
        transposed: modules that store their weight as (in, out).
        unsupported: what none of these holds, each with the reason.
        names: the patch's tensors -> the live model's parameters.
        live: the live model.
    """

    source: ExportSource
    live: _Live
    names: Mapping[str, str]
    weights: dict[str, str] = field(default_factory=dict)
    biases: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    transposed: set[str] = field(default_factory=set)
    unsupported: dict[str, str] = field(default_factory=dict)

    @cached_property
    def covers(self) -> Mapping[str, Cover]:
        """The lines of each weight that hold its entries."""
        mask = self.source.patch.mask
        return {name: cover_entries(mask[name], mask.specs[name].shape) for name in self.weights}

    @property
    def targets(self) -> dict[str, int]:
        """Module -> rank of its factors, 1 of those that are zero."""
        ranks = {module: self.covers[name].rank for name, module in self.weights.items()}
        return dict(sorted((dict.fromkeys([*self.biases.values(), *self.idle], 1) | ranks).items()))

    @property
    def saved(self) -> dict[str, str | None]:
        """Parameter of a module that is kept whole -> the patch's tensor, None where the patch leaves it as it is."""
        parameters = [parameter for path in self.whole_modules for parameter in self.live.parameters_of(path)]
        own = {self.names[name]: name for name in (*self.norms, *self.heads)}
        return {parameter: own.get(parameter) for parameter in parameters}

    @property
    def whole_modules(self) -> list[str]:
        """Modules that are kept whole."""
        return sorted({*self.norms.values(), *self.heads.values()})

    def read_base(self, parameter: str) -> torch.Tensor:
        """Return the base's tensor for a parameter of the live model, mapped from disk; treat it as read-only."""
        assert self.source.target is not None
        checkpoint = self.source.target.checkpoint
        return checkpoint.read(self.live.name_map.match([parameter], checkpoint.names).found[parameter])


def sort_tensors(source: ExportSource) -> LoraParts:
    """Sort a patch's tensors.

    Raises:
        ConfigError: no config.json describes the base, so that the kinds of its layers are unknown.
        PatchMismatchError: a name could stand for two of the live model's.
    """
    model = source.model
    if model is None:
        raise ConfigError("lora needs the base's config.json, which says what kind of layer each weight belongs to")
    live, specs = _Live.of(model), source.patch.mask.specs
    names = live.name_map.match([*specs, *source.patch.dense], live.parameters).found
    parts = LoraParts(source, live, names)
    for name in source.patch.dense:
        _place_whole(parts, name, names.get(name), live)
    for name, spec in specs.items():
        if spec.dtype not in ADDABLE:
            parts.unsupported[name] = f"{spec.dtype}; PEFT adds {', '.join(ADDABLE)}"
        elif name not in names:
            parts.unsupported[name] = "no parameter of a module of its own"
        else:
            _place(parts, name, names[name], live)
    _refuse_lone_biases(parts, live.modules)
    return parts


def _place(parts: LoraParts, name: str, parameter: str, live: _Live) -> None:
    """Find the part of an adapter for a tensor of the patch, of which `parameter` is one of the live names."""
    group = live.group_of(parameter)
    paths = sorted(_module_of(other) for other in {parameter, *group})
    path = next((path for path in paths if live.modules[path] is live.inputs), _module_of(parameter))
    module, is_tied = live.modules[path], len(group) > 1
    if _is_linear(module) and not is_tied:
        (parts.weights if parameter.endswith(".weight") else parts.biases)[name] = path
        if is_conv1d(module):
            parts.transposed.add(path)
    elif (
        isinstance(module, torch.nn.Embedding) and live.is_unmistakable(path) and (not is_tied or module is live.inputs)
    ):
        parts.tokens[name] = path
    elif _is_norm(module) and live.is_unmistakable(path) and not is_tied:
        parts.norms[name] = path
    else:
        parts.unsupported[name] = "tied with another tensor" if is_tied else _OTHER


def _place_whole(parts: LoraParts, name: str, parameter: str | None, live: _Live) -> None:
    """Keep the module of a whole tensor, if the patch has all of it and PEFT takes it for no other."""
    path, patch = _module_of(parameter or name), parts.source.patch
    own = {parts.names.get(other) for other in patch.dense}
    is_whole = parameter is not None and own.issuperset(live.parameters_of(path))
    if name in patch.provenance.grown or not is_whole or not live.is_unmistakable(path):
        parts.unsupported[name] = _WHOLE
    elif len(live.group_of(str(parameter))) > 1:
        parts.unsupported[name] = "tied with another tensor"
    else:
        parts.heads[name] = path


def _is_linear(module: torch.nn.Module) -> bool:
    return type(module) is torch.nn.Linear or is_conv1d(module)


def _is_norm(module: torch.nn.Module) -> bool:
    return not any(module.children()) and all(parameter.ndim == 1 for parameter in module.parameters())


def _refuse_lone_biases(parts: LoraParts, modules: Mapping[str, torch.nn.Module]) -> None:
    """Refuse biases beside targets without one, since PEFT gives one to all or none; and find an idle target."""
    targets = {*parts.weights.values(), *parts.biases.values()}
    bare = sorted(path for path in targets if modules[path].bias is None)
    if parts.biases and bare:
        reason = f"a bias, which PEFT's lora_bias keeps only if each adapted layer has one; {bare[0]!r} has none"
        parts.unsupported.update(dict.fromkeys(parts.biases, reason))
        parts.biases.clear()
    if (parts.tokens or parts.whole_modules) and not (parts.weights or parts.biases):
        linear = (path for path, module in modules.items() if _is_linear(module) and path not in parts.whole_modules)
        parts.idle.extend(path for path in linear if len(parts.live.group_of(f"{path}.weight")) == 1)
        del parts.idle[1:]
        parts.transposed.update(path for path in parts.idle if is_conv1d(modules[path]))
    if not parts.targets:
        reason = "beside no linear layer, and a LoRA without one does not load"
        for held in (parts.tokens, parts.norms, parts.heads):
            parts.unsupported.update(dict.fromkeys(held, reason))
            held.clear()


def _module_of(name: str) -> str:
    return name.rpartition(".")[0]
