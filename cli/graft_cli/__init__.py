"""The `graft` command: one thin file per command, loaded when it is asked for."""

from __future__ import annotations

from typing import Any


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line, the process's own where no arguments are given, and exit.

    Exit codes: 0 done, 1 refused or failed with one line, 2 wrong usage, 130 interrupted, 143 terminated.
    """
    from graft_cli.signals import leave, take_over

    if arguments is None:
        take_over()
    from graft_cli.entry import main

    try:
        return main(arguments)
    except SystemExit as error:
        if arguments is None:
            leave(error.code)
        raise


__all__ = ["main"]
