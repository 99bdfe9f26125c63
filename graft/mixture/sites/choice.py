"""The kind of site that a module gets."""

from __future__ import annotations

import contextlib
import re
from typing import Any, cast

import torch

from graft.errors import PatchMismatchError
from graft.mixture.rows import Call
from graft.mixture.sites.embedding import EmbeddingSite
from graft.mixture.sites.matrix import MatrixSite
from graft.mixture.sites.norm import NormSite, is_norm
from graft.mixture.sites.rerun import RerunSite
from graft.mixture.sites.site import Site
from graft.tensors.transposed import is_plain_conv1d, is_plain_linear

# tables that are called with one number a token; others, such as T5's of relative positions, are shared by all rows
_BY_TOKEN = re.compile(r"(^|\.)(word_embeddings|position_embeddings|token_type_embeddings|tok_embeddings|wte|wpe)$")
_EXPERTS = re.compile(r"(^|\.)experts\.[^.]*\d(\.|$)")  # a list of modules, each called with the tokens that chose it


def make_site(model: torch.nn.Module, name: str, module: torch.nn.Module, call: Call) -> Site[Any]:
    """Make the site of a module.

    Raises:
        PatchMismatchError: it is called in a way that does not keep rows apart.
    """
    is_table = isinstance(module, torch.nn.Embedding) and module in _input_tables(model)
    site = _choose(name, module, call, is_table)
    if name and not is_table:  # an input table is not called where embeddings are given
        site.expect_call(model.get_submodule(name.rpartition(".")[0]))
    return site


def _choose(name: str, module: torch.nn.Module, call: Call, is_table: bool) -> Site[Any]:
    site: Site[Any]
    if isinstance(module, torch.nn.MultiheadAttention) or _EXPERTS.search(name):
        raise _refusal(name, "is called with tokens of several rows at once")
    if isinstance(module, torch.nn.Embedding):
        if not (_BY_TOKEN.search(name) or is_table):
            raise _refusal(name, "is not called with the tokens of a row")
        plain = type(module).forward is torch.nn.Embedding.forward and module.max_norm is None
        site = EmbeddingSite(name, module, call) if plain else RerunSite(name, module, call)
    elif is_plain_linear(module):
        site = MatrixSite(name, module, call)
    elif is_plain_conv1d(module):
        site = MatrixSite(name, module, call, transposed=True)
    elif is_norm(module):
        site = NormSite(name, module, call)
    else:
        site = RerunSite(name, module, call)
    return site


def _input_tables(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the tables by which a model and its parts embed tokens."""
    tables = []
    for part in model.modules():
        if hasattr(part, "get_input_embeddings"):
            with contextlib.suppress(NotImplementedError):
                tables.append(cast("Any", part).get_input_embeddings())
    return tables


def _refusal(name: str, fact: str) -> PatchMismatchError:
    return PatchMismatchError(f"module {name!r} {fact}: skills that touch it can be grafted, not mixed in one batch")
