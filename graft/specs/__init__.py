"""Blocks of YAML: every config, typed and torch-free."""
