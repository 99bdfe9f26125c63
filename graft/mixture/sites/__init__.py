"""Modules at which rows part: one file a kind of module, each with its way to give a row what its skill gives."""
