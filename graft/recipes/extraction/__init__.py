"""Experiments on extraction: one tuned checkpoint made small in many ways, and what each keeps of it."""
