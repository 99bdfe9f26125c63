"""Resizing of a loaded model for the rows that patches add to its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from graft.patch.skill_patch import Patch
from graft.tasks.head import Head
from graft.tensors.vocabulary import add_tokens


def make_room(head: Head, patches: Sequence[Patch]) -> None:
    """Resize a head's model to the vocabulary of patches about to be applied, and add known tokens to its tokenizer.

    The new rows hold arbitrary values until a patch is applied: measure the base before. A model of another size than
    the patches' base is left as it is, and refused when they are applied.
    """
    for patch in patches:
        for name, growth in patch.provenance.grown.items():
            embeddings = head.model.get_input_embeddings()
            if len(embeddings.weight) == growth.start:
                n = growth.start + len(patch.dense[name])
                head.model.resize_token_embeddings(n, mean_resizing=False)
                add_tokens(head.tokenizer, growth.start, growth.tokens)
