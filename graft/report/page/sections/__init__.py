"""Sections of a run on the page, one file each; `graft.report.registry` lists them in their order."""
