"""`python -m graft_cli`."""

from graft_cli import main

main()
