"""Adapters of PEFT, read as edits of a base."""
