"""Run the `graft` command as `python -m graft_cli`."""

from graft_cli import main

main()
