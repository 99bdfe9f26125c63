"""Weights: names, dtypes, flat indices, tied storage, and checkpoints read tensor by tensor."""
