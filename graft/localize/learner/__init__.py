"""Masks that are learned: the relaxed mask of arXiv 2302.06600, and exact budgets at every step."""
