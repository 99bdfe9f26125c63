"""Report on finished runs: plots, and one page."""
