"""Heads: the ways in which a model's outputs become logits, one file each; `graft.tasks.registry` lists them."""
