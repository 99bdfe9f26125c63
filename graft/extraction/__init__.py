"""Extraction of a fine-tune from two checkpoints into something small, in the ways that others do it and in ours."""
