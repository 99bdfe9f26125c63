"""A model of lm-evaluation-harness with skills grafted on, which its command line and `simple_evaluate` can name.

`python -m graft.interop.harness` is the harness's own command with this model registered; versions of the harness that
look for plugins find it by its entry point, and `import graft.interop.harness` registers it for `simple_evaluate`.
The harness: https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from graft.errors import GraftError
from graft.files.location import is_on_hub, locate, locate_patch
from graft.patch.format.declaration import FILE_NAME
from graft.patch.format.reading import load_patch
from graft.patch.live import apply_patch
from graft.tasks.placement import speed_up_products


@register_model("graft")
class GraftedLM(HFLM):  # type: ignore[misc]  # the harness is not typed
    """The harness's model of transformers, with patches on it for as long as it lives.

    Args:
        pretrained: the base: a local folder, an embedded model, a Hub id, or a live model, which keeps the patches.
        patch: a patch or several, of which each is a file, a folder or a Hub id; in one text they are separated as
            folders are in PATH. Without any, the base is measured.
        revision: of a base on the Hub.
        cast: as in `graft.apply_patch`, for a `dtype` that is not the base's.
        options: of the harness's own model: `dtype`, `batch_size`, `device` and so on.

    Raises:
        CheckpointError: the base cannot be found.
        PatchMismatchError: a patch does not fit the base.
        OverlapError: two patches disagree.
    """

    def __init__(
        self,
        pretrained: Any,
        patch: str | Path | Sequence[str | Path] = (),
        revision: str | None = None,
        cast: bool = False,
        **options: Any,
    ) -> None:
        if isinstance(pretrained, str):
            at = f"@{revision}" if revision and "@" not in pretrained and is_on_hub(pretrained) else ""
            pretrained = str(locate(f"{pretrained}{at}").path)
        super().__init__(pretrained, **options)
        speed_up_products(self.model)
        paths = [locate_patch(one, FILE_NAME).path for one in split_patches(patch)]
        self.grafted = apply_patch(self.model, *map(load_patch, paths), cast=cast) if paths else None


def split_patches(patch: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """Return the patches that a text names, separated as folders are in PATH; a sequence is taken as it is."""
    if isinstance(patch, str):
        return [one for one in patch.split(os.pathsep) if one]
    return [patch] if isinstance(patch, os.PathLike) else list(patch)


def run_harness() -> None:
    """Run the harness's own command; what the toolkit refuses is said in one line."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except GraftError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    run_harness()
