"""Fusion of whole models that were tuned from one base: one file a method, `fuser` streams the weights through it."""
