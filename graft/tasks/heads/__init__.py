"""The heads, one file each, which turn a model's outputs into logits; `graft.tasks.registry` lists them."""
