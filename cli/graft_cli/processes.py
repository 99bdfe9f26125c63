"""Commands under a launcher such as torchrun: several processes run one, and only one of them prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graft.specs.runtime import Runtime

SHARED = ("train", "localize")  # commands whose work several processes can share


def join(arguments: Sequence[str]) -> None:
    """Join the launcher's other processes, if there are any; all but the first fall silent.

    Raises:
        ConfigError: the command has no work to share.
    """
    if not _is_launched():
        return
    from graft.errors import ConfigError
    from graft.parallel.launch import find_ranks

    if not find_ranks().is_first:
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - open to the end
    if arguments and arguments[0] not in SHARED:
        raise ConfigError(f"graft {arguments[0]} runs in one process: start it without a launcher")


def is_first() -> bool:
    """Return whether this process writes files: it is the only one, or the first of several."""
    if not _is_launched():
        return True
    from graft.parallel.launch import find_ranks

    return find_ranks().is_first


def share_weights(runtime: Runtime) -> bool:
    """Return whether each of several processes holds a part of the weights only."""
    return _is_launched() and runtime.parallel == "fsdp"


def may_speak_of_failure() -> bool:
    """Return whether to print an error here: processes fail one after another, and the first to fail knows why."""
    if not _is_launched():
        return True
    from graft.parallel.launch import is_first_to_fail

    sys.stderr = sys.__stderr__
    return is_first_to_fail()


def leave() -> None:
    """Leave the process group at the end of a command."""
    if _is_launched():
        from graft.parallel.launch import leave

        leave()


def _is_launched() -> bool:
    """Look at the environment, which costs no import; `find_ranks` looks closer."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
