"""Experiments on forgetting: a new domain learned in many ways, and what is left of what the model knew."""
